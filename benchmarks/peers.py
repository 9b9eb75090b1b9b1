"""Other packages on the arrays of the benchmark, installed by ``pip install -e '.[benchmark]'``.

Each peer is a function of (X, y, X_test, prior, seed) that returns rewards of the test rows, with
the package's own defaults. X comes standardised; y are the actions of one signal; prior is the
share of preferred rows for those that need it.
"""

import warnings

import numpy as np


def logistic_regression(X, y, X_test, prior, seed):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000).fit(X, y).predict_proba(X_test)[:, 1]


def mlp(X, y, X_test, prior, seed):
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(early_stopping=True, random_state=seed)
    return model.fit(X, y).predict_proba(X_test)[:, 1]


def skorch_classifier(X, y, X_test, prior, seed):
    import torch
    from skorch import NeuralNetBinaryClassifier
    from skorch.callbacks import EarlyStopping

    torch.manual_seed(seed)
    net = NeuralNetBinaryClassifier(
        torch.nn.Sequential(
            torch.nn.Linear(X.shape[1], 64),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(64, 1),
            torch.nn.Flatten(0),
        ),
        optimizer=torch.optim.AdamW,
        lr=3e-4,
        max_epochs=200,
        callbacks=[EarlyStopping(patience=10, load_best=True, sink=lambda text: None)],
        verbose=0,
    )
    return net.fit(X, y.astype(np.float32)).predict_proba(X_test)[:, 1]


def pulearn_elkanoto(X, y, X_test, prior, seed):
    from pulearn import ElkanotoPuClassifier
    from sklearn.linear_model import LogisticRegression

    model = ElkanotoPuClassifier(LogisticRegression(max_iter=1000), random_state=seed)
    proba = model.fit(X, np.where(y > 0, 1, -1)).predict_proba(X_test)
    return np.asarray(proba)[:, 1]


def pulearn_nnpu(X, y, X_test, prior, seed):
    from pulearn import NNPUClassifier

    model = NNPUClassifier(prior=prior, random_state=seed)
    return model.fit(X, np.where(y > 0, 1, -1)).predict_proba(X_test)[:, 1]


def pu_toolbox_elkan_noto(X, y, X_test, prior, seed):
    from pu_toolbox import ElkanNotoClassifier

    return ElkanNotoClassifier(random_state=seed).fit(X, y.astype(int)).predict_proba(X_test)[:, 1]


def pu_toolbox_nnpu(X, y, X_test, prior, seed):
    import torch
    from pu_toolbox import NonNegativePUClassifier

    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Linear(X.shape[1], 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)
    )
    model = NonNegativePUClassifier(
        model=network, class_prior=prior, max_epochs=30, random_state=seed
    )
    model.fit(X.astype(np.float32), y.astype(int))
    # Its scores are of the sigmoid loss.
    scores = np.ravel(model.decision_function(X_test.astype(np.float32)))
    return 1 / (1 + np.exp(-scores.astype(float)))


def pysarpu_sar_em(X, y, X_test, prior, seed):
    from pysarpu import PUClassifier
    from pysarpu.classification import LinearLogisticRegression
    from pysarpu.propensity import LogisticPropensity
    from sklearn.decomposition import PCA

    # Its maximisation is an unpenalised regression, which hundreds of columns separate.
    pca = PCA(20, random_state=seed, whiten=True).fit(X)
    Z, Z_test = pca.transform(X), pca.transform(X_test)
    # It draws its initial values from the global generator.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        model = PUClassifier(LinearLogisticRegression(), LogisticPropensity())
        model.fit(Z, Z, y.astype(float), max_iter=50)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return model.predict_cproba(Z_test)


#: Name in the tables: (function, whether it needs the prior).
PEERS = {
    "scikit-learn LogisticRegression": (logistic_regression, False),
    "scikit-learn MLPClassifier": (mlp, False),
    "skorch NeuralNetBinaryClassifier": (skorch_classifier, False),
    "pulearn ElkanotoPuClassifier": (pulearn_elkanoto, False),
    "pu-toolbox ElkanNotoClassifier": (pu_toolbox_elkan_noto, False),
    "pysarpu SAR-EM": (pysarpu_sar_em, False),
    "pulearn NNPUClassifier": (pulearn_nnpu, True),
    "pu-toolbox NonNegativePUClassifier": (pu_toolbox_nnpu, True),
}


def run_peer(name, X, y, X_test, prior, seed):
    """Return the rewards of a peer, in [0, 1]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reward = PEERS[name][0](X, y, X_test, prior, seed)
    return np.clip(np.nan_to_num(np.asarray(reward, dtype=float), nan=0.5), 0, 1)
