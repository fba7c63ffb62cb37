"""Image and text: which parts of a picture and which words a model of both relates to each other."""
