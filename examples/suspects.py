"""Which labels of the noisy digits of own_module.py are wrong: ``EPOCHS=40 python suspects.py``."""

import torch
from sklearn.datasets import load_digits

from law_lightning import LAWCallback
from own_module import test_accuracy

if __name__ == "__main__":
    law = LAWCallback()
    test_accuracy(0, [law])
    suspects = law.suspects()  # the likeliest first
    for suspect in suspects[:5]:
        print("sample {index}: label {given}, predicted {predicted}, score {score:.2f}".format_map(suspect))

    truth = load_digits().target[torch.randperm(1797, generator=torch.Generator().manual_seed(0))[:500]]
    wrong = sum(suspect["given"] != truth[suspect["index"]] for suspect in suspects)
    print(f"{wrong} of {len(suspects)} suspects have a wrong label")
