"""How long do the same exchanges and layers take for real? Run between processes with ``torch.distributed``.

``patterns`` sends the bytes, ``group`` joins the ranks and ends all of them, ``clock`` gives them a common start, ``bench``
measures exchanges, ``run`` executes the MoE layers of a scenario, ``launch`` starts ranks on this machine or in a lab. The
modules of results and facts (``bench_plan``, ``bench_result``, ``rows``, ``run_result``, ``hosts``), ``launch``, ``matrix``,
``prediction`` and ``runnable`` need no torch.
"""
