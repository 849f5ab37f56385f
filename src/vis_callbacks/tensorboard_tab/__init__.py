"""The tab "Health" of TensorBoard. It loads neither torch nor Lightning nor matplotlib."""
