"""Small networks at every place, which change nothing until they are trained.

adapters           bottlenecks with a shortcut
attention          squeeze-and-excitation, and CBAM
lora, lora_merging low-rank factors, and their way back into the weights
lora_parts         where they can be
stochastic_depth   residual branches, left out at random
branches           which of two tensors is a branch
placing            how several layers are put behind a call
freezing           everything else, not trained
"""
