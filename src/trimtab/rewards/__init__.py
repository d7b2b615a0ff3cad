"""What a response is worth: the Reward protocol, classifiers, plain functions and an independent judge."""
