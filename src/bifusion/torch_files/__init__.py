"""Reading files that PyTorch wrote without running anything that stands in them.

A pickle is a program: torch.load executes it, and weights_only refuses most files of other projects
because of what lies beside their weights. Here a machine of our own steps through the pickle. It
builds plain containers, numbers, text and references to stored tensors; it imports nothing and calls
nothing, so whatever else a file asks for becomes an inert object.
"""
