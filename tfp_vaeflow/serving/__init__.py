"""A trained model as a SavedModel for TensorFlow Serving."""
