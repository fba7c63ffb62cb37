"""Drawn scenes of coloured shapes, with captions and exact masks: what `scenes-clip` learns from and is judged on.

`draw` makes pictures, `captions` says what is in them and what a caption demands, `data` puts both into splits, `train`
and `judge` make the weights and the card, `bench` is the evaluation, `examples` what ships. Everything is a pure
function of its arguments and of a `numpy.random.Generator`.
"""
