"""Reading back what a run has written, for TensorBoard's Health tab and the command line."""

TAB_NAME = "vis_callbacks"  # TensorBoard's name of our plugin, which our tensors carry
