"""What does a router learn, and what does that do to traffic?

The method of SMoES in PyTorch, each piece usable alone with any router (plain tensors in, tensors out): ``scores`` (how
much of each modality a token carries), ``bins`` (which experts belong together), ``losses``, ``selection`` (which
experts a router may choose: the rivals). ``tiny_vlm`` is a small mixture-of-experts vision-language model, ``training``
trains it, ``study`` runs variants times seeds and ``claims`` says what the result supports.

Imports of this package need the ``learning`` extra; ``study_file``, ``measures`` and ``claims`` do without torch.
Shape letters: B sequences, T tokens, D hidden, E experts, K chosen experts, M modalities (0 text, 1 vision), L layers.
"""
