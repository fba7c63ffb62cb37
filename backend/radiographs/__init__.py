"""A chest radiograph simulator: one real CT, posed and deformed, with findings whose place is known exactly.

`ct` reads and cleans the volume, `pose` casts rays through it once per pose, `lesions` and `devices` change the line
integrals, `display` turns them into a picture, `reports` says in words what is there, `simulate` puts it together.
Everything is a pure function of its arguments and of a `numpy.random.Generator`.
"""
