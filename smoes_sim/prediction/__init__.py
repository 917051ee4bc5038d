"""What does this deployment do?

``deployment`` makes a scenario concrete, ``constants`` holds what only measurements can tell, ``simulate`` times its steps
under every set of constants, ``compare`` holds several deployments against each other, ``memory_fit`` says whether one
fits into its devices.
"""
