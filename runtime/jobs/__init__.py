"""The file handling of `runtime.infer`: inputs, output paths, extra outputs and the summary."""
