"""What does a router learn, and what does that do to traffic?

The method of SMoES in PyTorch, each part usable alone with any router (plain tensors in, tensors out): ``scores``
(modality scores of tokens), ``bins`` (bins of experts), ``losses``, ``selection`` (rules that choose experts, SMoES's
alternatives). ``tiny_vlm`` is a small mixture-of-experts vision-language model, ``training`` trains it, ``study`` runs all
variants and seeds, ``trained_study`` holds the result. ``capture`` records the routing of any PyTorch model, ``attach``
adds the losses of SMoES to the training of a Hugging Face model.

This package needs the extra ``learning`` (``capture`` for Hugging Face models); ``study_file``, ``unit_result``,
``measures``, ``claims``, ``summary`` and ``trained_study`` do not import torch.
Shape letters: B sequences, T tokens, D hidden, E experts, K chosen experts, M modalities (0 text, 1 vision), L layers.
"""
