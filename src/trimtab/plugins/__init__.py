"""What users add: entries of registries from plug-ins, and functions in files of their own."""
