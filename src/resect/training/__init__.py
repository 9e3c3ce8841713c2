"""What shrinking and searching share: models that are trained, measured, and put by as arrays.

    feeding     data for `fit` and `evaluate`, in an order that can be repeated
    measures    loss, metrics and costs of a model
    directions  which values of a metric are better
    values      all that training changes in a model, as arrays
    files       those values as bytes
    identity    what makes two requests the same one
    locking     one process at a time in a folder
    distilling  training towards what another model says
    recovery    ways to train a model

Nothing here knows what is shrunk or searched.
"""
