"""How many bytes go from rank to rank?

Main type: ``copies.Traffic``, counted from a routing trace and a placement. ``skewed`` makes traffic matrices with a given
skew, without a trace. Neighbours: ``placement`` says where experts and tokens are, ``network`` how long the bytes take.
"""
