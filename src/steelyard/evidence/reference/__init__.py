"""Reference values: what a component measures to, made from the artefact itself, and how such statements are signed."""
