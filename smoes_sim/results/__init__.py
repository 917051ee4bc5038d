"""How are results written to a folder and read back?

``write`` writes summary, tables and the resolved scenario; ``read`` reads them back as typed rows; ``expected`` checks the
keys of a summary.
"""
