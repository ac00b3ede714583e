"""The installed commands; train_net.py, demo/demo.py and two tools call them too."""
