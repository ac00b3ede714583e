"""The command lines that are installed with the package; train_net.py and demo/demo.py are the same in a checkout."""
