"""Synthesised sounds with pictures and captions: what `sounds-clip` learns from and is judged on.

`synthesis` makes sounds of known time spans, `pictures` draws what makes them, `captions` says what is heard, `data`
puts them into splits, `train` and `judge` make the weights and the card, `bench` is the evaluation, `examples` what
ships. Everything is a pure function of its arguments and of a `numpy.random.Generator`.
"""
