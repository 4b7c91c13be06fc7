"""The trainings of the judges of the tiny_faces world."""
