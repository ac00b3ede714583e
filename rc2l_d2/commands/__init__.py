"""The command lines that are installed with the package; train_net.py, demo/demo.py and two tools call them too."""
