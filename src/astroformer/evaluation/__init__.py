"""Tables and pictures made from a classifier's predictions."""
