"""The real thing: exchanges between processes with ``torch.distributed``, and how they are started, timed and ended.

``patterns`` sends the bytes, ``group`` joins the ranks and sees to it that all of them end, ``clock`` starts them at one
instant, ``bench`` measures, ``launch`` starts ranks on this machine or in a lab. Everything here but ``launch`` and
``matrix`` imports torch.
"""
