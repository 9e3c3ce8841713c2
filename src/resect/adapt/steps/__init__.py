"""Sequence models: with states that stay, or step by step.

recurrent   stateful and stateless layers
stepwise    the model of a step, and of what comes before the first
stepping    which states and which contexts a step needs
rules       which layers treat every step alike
"""
