"""The first-in-first-out model: chunks of messages pass ports in the order in which the library posts them.

``exchange`` times one exchange; ``kernel`` is its compiled loop.
"""
