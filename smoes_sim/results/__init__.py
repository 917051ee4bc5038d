"""What is in a folder of results?

``write`` writes summary, tables and the resolved scenario; ``read`` reads them back as typed rows; ``expected`` says what a
summary must hold.
"""
