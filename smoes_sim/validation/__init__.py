"""How wrong are the predictions?

``validate`` holds predictions against measured rows; ``published`` does so for the shipped measurements of others, with
whole systems left out of the fit.
"""
