"""How long does one exchange take on this topology?

``alltoall`` answers as nccl-tests would on a cluster that you do not have; ``bandwidth`` turns times into algorithm and
bus bandwidth. Neighbours: ``network`` has the models, ``traffic`` the matrices.
"""
