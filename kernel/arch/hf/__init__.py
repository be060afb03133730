"""The real machine: a Hugging Face model, its weights in a cache of plain directories, its text turned into vectors."""
