"""Sparse 3D network operations: convolution on occupied voxels only.

tensor.py (SparseTensor, KernelMaps) and modules.py (layers) are for models; functional.py is the
seam behind which backends compute; kernel_map.py says which voxel meets which; reference.py is the
plain-torch backend.
"""
