"""What is in a folder of results?

``write`` writes summary, tables and the resolved scenario; ``read`` reads them back; ``expected`` says which columns a
folder must have.
"""
