"""When does each message end if ports serve messages in the order in which the library posts them (first in, first out)?

``exchange`` times one exchange; ``kernel`` is its event loop, compiled for large cases. Main type: ``MessageTimes``.
"""
