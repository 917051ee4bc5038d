"""What does a deployment send, does it fit into memory, and how long does it take?

``deployment`` makes a scenario concrete, ``constants`` holds what only measurements can tell, ``simulate`` times its steps
under every set of constants, ``comparison`` compares several deployments, ``memory_fit`` says whether one
fits into its devices.
"""
