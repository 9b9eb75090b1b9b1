"""The model card of a saved model: the facts that a reader needs before using it."""

import json
import os
from numbers import Real

import numpy as np

from .._identification import IDENTIFIED, NOT_IDENTIFIED
from ..exceptions import ImplicitRMError
from ..measurement._action import Action
from ..measurement._choice import Choice
from ..measurement._graded import Graded

_HEADER = """\
---
library_name: implicitrm-sk
tags:
- reward-model
- implicit-feedback
- rlhf
- scikit-learn
---
"""


def model_card(est, metrics=None, usage=None, users=False):
    """Return the card of a fitted estimator as Markdown.

    Parameters
    ----------
    est : ImplicitRewardEstimator
    metrics : dict of str to float, default=None
        Measured values, by name; the name says on which data.
    usage : str, default=None
        How to use the model, if not by `ImplicitRewardEstimator.load`.
    users : bool, default=False
        Whether the activity of users is saved too.
    """
    metrics = {} if metrics is None else dict(metrics)
    for name, value in metrics.items():
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, Real):
            raise ImplicitRMError(
                f"metrics must map names to numbers, got {name!r}: {value!r}. For example "
                'metrics={"AUROC on 500 rated responses": 0.84}.'
            )
    sections = (
        "# Reward model learned from user actions",
        "Estimates the reward R(x) = P(the response is preferred), in [0, 1], from an embedding x "
        "of a (prompt, response). It was learned from what users did with responses, not from "
        "labels, with the Python package `implicitrm-sk`.",
        "## Use",
        _usage(est) if usage is None else usage,
        "## Data",
        _bullets([*_data(est), *_users(est, users)]),
        "## Identification",
        _identification(est),
        "## Metrics",
        _metrics(est, metrics),
        "## Intended use",
        _intended_use(est),
        "## Model",
        _bullets(_model(est)),
        *_fine_tuning(est),
    )
    return _HEADER + "\n" + "\n\n".join(sections) + "\n"


def _usage(est):
    call = f"reward = est.predict(X)  # X: (n, {est.n_features_in_})"
    if getattr(est, "embedder_", None) is not None:
        call = 'reward = est.predict([("a prompt", "a response")])'
    return (
        "```python\nfrom implicitrm_sk import ImplicitRewardEstimator\n\n"
        'est = ImplicitRewardEstimator.load("PATH")  # or from_pretrained("USER/NAME")\n'
        f"{call}\n```"
    )


def _bullets(lines):
    return "\n".join(f"- {line}" for line in lines)


def _quoted(name):
    """Return a name from other people as one piece of code, whatever it contains."""
    return "`" + json.dumps(str(name)).replace("`", "'").replace("|", "\\|") + "`"


def _data(est):
    counts = est.evidence_
    yield (
        f"{counts.n_responses:,} responses with something logged, {counts.n_acted:,} of them with "
        "an action"
    )
    names = getattr(est, "signal_names_in_", None)
    kinds = list(map(_kind, est.signals_))
    names = range(len(kinds)) if names is None else names
    shown = [f"{_quoted(name)} ({kind})" for name, kind in zip(names, kinds, strict=True)]
    yield f"{len(kinds)} kind{'s' if len(kinds) > 1 else ''} of feedback: {', '.join(shown)}"
    for n, text in (
        (counts.n_several_signals, "responses with several logged signals"),
        (counts.n_repeated, "responses shown repeatedly"),
        (counts.n_labels, "responses with an explicit label"),
        (counts.n_known_propensity, "responses with a known propensity"),
    ):
        if n:
            yield f"{n:,} {text}"
    if est.preference_rate is not None:
        yield f"overall preference rate held at {_quoted(est.preference_rate)}"
    if np.any(est.false_action_rate_):
        origin = "estimated" if isinstance(est.false_action_rate, str) else "given"
        rates = ", ".join(f"{rate:.3g}" for rate in est.false_action_rate_)
        yield f"false-action rates ({origin}): {rates}"
    correlations = est.exposure_correlation_
    if not np.isnan(correlations).all():
        shown = ", ".join("none" if np.isnan(rho) else f"{rho:.2g}" for rho in correlations)
        yield f"correlation of two exposures of a response, by kind of feedback: {shown}"


def _kind(signal):
    """Return what a signal shows, in words."""
    if isinstance(signal, Choice):
        return f"one choice of {', '.join(map(_quoted, signal.outcomes))}"
    preference = "" if getattr(signal, "target", 1) else "not "
    if isinstance(signal, Graded):
        return f"graded: high values show that a response is {preference}preferred"
    if isinstance(signal, Action):
        return "negative" if preference else "positive"
    return type(signal).__name__


def _users(est, users):
    if not hasattr(est, "user_loading_"):
        return
    largest = est.user_loading_.max()
    yield (
        f"users differ in activity, by a standard deviation of up to {largest:.2g} logits"
        if largest
        else "held-out rows do not show that users differ in activity"
    )
    if users:
        n = len(est.user_activity_.user_id)
        yield f"**personal data**: the ids of {n:,} users, and how readily each of them acts"
    else:
        yield "ids of users, and how readily each acts, are not in these files"


def _identification(est):
    found = est.identification_
    lines = [f"**{found}**", found.reason[:1].upper() + found.reason[1:]]
    if found.level == NOT_IDENTIFIED and est.objective_.models_propensity:
        lines.append(
            "The level and the ranking of this reward are a convention: at x any reward between "
            "P(action given x) and 1 fits the log equally well."
        )
    elif found.level != IDENTIFIED:
        lines.append("The reward is determined only as far as this says.")
    else:
        lines.append("`identification_report` shows whether the log is large enough for this.")
    if found.advice:
        lines.append("More information would come from:\n\n" + _bullets(found.advice))
    return "\n\n".join(line for line in lines if line)


def _metrics(est, metrics):
    rows = [(_quoted(name)[2:-2], f"{value:.4g}") for name, value in metrics.items()]
    losses = [record["valid_loss"] for record in est.history_ if "valid_loss" in record]
    if losses:
        best = np.mean(np.nanmin(np.asarray(losses, dtype=float), axis=0))
        rows.append(
            (
                "held-out criterion of early stopping (nats per row, lower is better, mean over "
                "members)",
                f"{best:.4g}",
            )
        )
    text = "" if metrics else "No metric against known preferences was given when it was saved.\n\n"
    if not rows:
        return text.strip()
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"{text}| metric | value |\n|---|---|\n{table}"


def _embedder(embedder):
    settled = embedder.settled
    name = os.fspath(embedder.model)
    # The card does not name folders of the owner's machine.
    name = os.path.basename(name.rstrip("/")) if os.path.isabs(name) else name
    yield (
        f"embedding: {_quoted(name)}, layer {settled['layer_']}, {settled['pooling_']} pooling"
        + (", normalised" if embedder.normalize else "")
        + f", up to {settled['max_length_']} tokens, "
        + ("chat template" if settled["chat_template_"] else "no chat template")
    )
    yield f"weights and tokenizer: {_quoted(settled['fingerprint_'])}"


def _fine_tuning(est):
    found = getattr(est, "fine_tuning_", None)
    if found is None:
        return
    name = found["base_model"].rstrip("/")
    name = os.path.basename(name) if os.path.isabs(name) else name
    yield "## Fine-tuning"
    yield _bullets(
        (
            f"language model tuned with the heads: {_quoted(name)}, {found['method']}",
            f"{found['n_train']:,} responses to train on, {found['n_held_out']:,} held out",
            f"log-likelihood per held-out response: {found['log_likelihood']:.4f}, before "
            f"{found['log_likelihood_frozen']:.4f} (standard error of the difference "
            f"{found['standard_error']:.4f})",
            f"{found['steps']:,} steps of {found['batch_size']} responses, "
            f"{found['epochs']:.3g} epochs, learning rate {found['learning_rate']:.3g}, seed "
            f"{found['seed']}",
        )
    )


def _intended_use(est):
    lines = [
        "Ranking, filtering and rewarding responses to prompts like those of the log, embedded "
        "exactly as the log was.",
        "In reinforcement learning the policy leaves the log. Compare its responses with the log "
        "(`implicitrm_sk.inspection.shift_report`), and lower the reward by its spread.",
        "Not for judging people, and not for responses, languages or users that the log does not "
        "contain. Preferred responses need not be true or harmless.",
    ]
    if not est.objective_.models_propensity:
        lines.insert(
            0,
            f"`{type(est.objective_).__name__}` has no propensity: it gives the probability of an "
            "action, which is not a reward.",
        )
    return _bullets(lines)


def _model(est):
    config = est.model_.config
    n, n_kept = config["n_members"], est.model_.n_different
    members = f"{n} members, averaged" if n_kept == n else f"{n_kept} of {n} members kept"
    yield f"objective: `{type(est.objective_).__name__}`; {members}"
    yield f"input: {est.n_features_in_} columns" + (", standardised" if est.scaler_ else "")
    if getattr(est, "embedder_", None) is not None:
        yield from _embedder(est.embedder_)
    if config["examination"]:
        yield "the probability that a response was looked at has a head of its own"
    sizes = ", ".join(map(str, config["hidden_layer_sizes"])) or "none (linear)"
    yield f"hidden layers of the reward head: {sizes}"
    if est.identification_.swap_symmetric:
        yield (
            "each member is averaged with its mirror image, with reward and propensity exchanged: "
            "the log does not distinguish them"
        )
