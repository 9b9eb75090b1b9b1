"""Settings of all tests."""

import torch

# The fits of the tests are small: a second thread would cost more than it brings.
torch.set_num_threads(1)
