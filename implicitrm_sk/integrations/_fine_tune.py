"""End-to-end training: the language model of a fitted estimator, with the same likelihood."""

import contextlib
import copy
import hashlib
import json
import os
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from .._activity import activity_of, is_better, rows_by_user
from .._assumptions import Assumptions
from .._device import resolve_device
from .._estimator import ImplicitRewardEstimator
from .._features import HeadColumns, select_features
from .._fit import own_random_state, reread_log, take_evidence
from .._held_out import HeldOut, check_verdict
from .._identification import IDENTIFIED, warn_not_identified, with_activity
from .._log import number_responses
from .._optional import import_optional
from .._prediction import FittedMixture
from .._tables import is_numeric
from .._validation import check_same_rows
from .._warnings import warn
from ..embedding import LowRankAdapter
from ..embedding._compute import TokenArrays
from ..embedding._embedder import ensure_fitted
from ..exceptions import ImplicitRMError
from ..inspection._arguments import without_single_rows
from ..training._data import TrainingData
from ..training._net import MemberRisk
from ..training._plan import FitPlan

#: Evaluations without a better held-out likelihood after which training stops.
PATIENCE = 3
EPOCHS, BATCH_SIZE = 3, 16
#: Steps of AdamW: of a low-rank change, and of all weights.
LEARNING_RATE, FULL_LEARNING_RATE = 2e-4, 2e-5
#: Factor of the logits of the heads at the start of training. At full scale, heads fit their rows
#: so closely that few of them pass a gradient to the language model.
HEAD_SCALE = 0.5
#: Least value of numbers in `args`.
LEAST = {
    "learning_rate": 0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
}
#: What says in an output folder which run it is of.
RUN_FILE = "run.json"
#: The likelihood of the start on held-out rows, for runs that are resumed.
FROZEN_FILE = "frozen.npy"
#: How far rewards of the result may differ from those in training: float32, and coarser formats.
TOLERANCES = (1e-4, 0.05)
FIT_PARAMS = (
    "sample_weight",
    "groups",
    "response_id",
    "exposures",
    "labels",
    "propensity",
    "user_id",
)


def fine_tune(
    est: ImplicitRewardEstimator,
    X: Any,
    y: Any,
    *,
    output_dir: str | PathLike[str],
    lora: Any = True,
    args: Any = None,
    eval_fraction: float | None = None,
    **fit_params: Any,
) -> ImplicitRewardEstimator:
    """Train the language model of a fitted estimator together with its heads.

    The fitted heads are the start. A head that fits keeps the first steps from distorting the
    knowledge of the language model (Kumar et al. 2022). The loss is the objective of the estimator,
    with all arguments of `fit`, averaged over the members. The engine is the ``Trainer`` of
    transformers. Training stops by the likelihood of held-out rows. The result is returned only if
    it is better than before by more than one standard error.

    Parameters
    ----------
    est : ImplicitRewardEstimator
        An estimator fitted on text, with an `embedder`. It is not changed.
    X : text of n_samples rows
        As in `fit`; preferably the rows that the heads were fitted on.
    y : array-like of shape (n_samples,) or (n_samples, n_signals)
        Actions, as in `fit`.
    output_dir : str or path-like
        Folder for checkpoints and the tuned weights; new or empty, unless a run is resumed.
    lora : bool or peft.LoraConfig, default=True
        True trains a low-rank change of rank 16 of all linear layers. A ``LoraConfig`` describes
        another change. False trains all weights, and writes a model of full size.
    args : dict or transformers.TrainingArguments, default=None
        A dict changes single arguments of the recipe, see Notes. ``TrainingArguments`` replace it;
        only `output_dir` is set in them. ``resume_from_checkpoint`` (True, or a folder) continues
        an interrupted run.
    eval_fraction : float, default=None
        Share of the groups of rows to hold out. None means `validation_fraction` of the estimator.
    **fit_params : dict
        Arguments of `fit`: sample_weight, groups, response_id, exposures, labels, propensity,
        user_id.

    Returns
    -------
    tuned : ImplicitRewardEstimator
        A fitted estimator with an embedder of the tuned model; all methods work as before. With
        LoRA, `save` writes the low-rank change beside the heads, and the name of the base model.
        `fine_tuning_` describes the run. It is `est` itself if it is not better.

    Raises
    ------
    ImportError
        If accelerate, or peft for LoRA, is not installed: ``pip install
        "implicitrm-sk[finetune]"``.
    TypeError, ValueError
        Raised before a model is loaded. `est` has no embedder, or X holds vectors. An argument is
        wrong or does not match the fit, or labels contradict actions. The model has no layers for
        LoRA. Or something is not supported: columns beside the text, and objectives that do not
        model P(y | x), compare pairs or need the whole log.
    FileExistsError
        If `output_dir` is not empty and nothing is resumed, or if it holds another run.

    Warns
    -----
    UserWarning
        If the tuned model is not better than the frozen one; both figures are given.
    IdentificationWarning
        As in `fit`.

    Notes
    -----
    The recipe is three epochs in batches of 16 texts of similar length. The step size is 2e-4 for
    LoRA and 2e-5 for all weights, also for the heads, with 6 % warm-up and linear decay. There are
    two evaluations per epoch. Training ends after three of them without an improvement, and the
    best checkpoint is kept.

    An average of the weights is evaluated and returned. It is of all steps at first, and later
    reaches back over 40 % of the training. Its logits are multiplied by two factors, one for the
    reward and one for the propensities. The held-out rows determine both (Guo et al. 2017).
    The frozen model is compared at its own best factors. Training starts with the logits halved:
    at full scale the heads fit their training rows too closely. Logits are not multiplied with
    users who differ in activity, with `preference_rate`, or where signals share a propensity.

    With the rows, arguments and integer `random_state` of `fit`, the rows held out are those that
    early stopping of `fit` held out. They chose the epoch of the frozen heads, which favours the
    frozen model a little. Otherwise the heads may have been fitted on some of them, which
    favours it more.

    With `torchrun` or ``accelerate launch`` each process calls this and gets the result. A batch
    then has 16 texts per process. ``fsdp=True`` in `args` spreads the weights of the language model
    over the processes. Torch's global random state is what it was before.

    References
    ----------
    .. [1] Kumar, Raghunathan, Jones, Ma & Liang, "Fine-Tuning can Distort Pretrained Features and
       Underperform Out-of-Distribution", ICLR 2022.
    .. [2] Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
    .. [3] Guo, Pleiss, Sun & Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder
    >>> from implicitrm_sk.integrations import fine_tune
    >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None)
    >>> texts = [(f"{n}?", answer) for n in range(20) for answer in ["Here it is.", "I cannot."]]
    >>> y = np.tile([[1, 0], [0, 1], [1, 0], [0, 0]], (10, 1))  # copied, regenerated
    >>> est = ImplicitRewardEstimator(
    ...     embedder=embedder,
    ...     signals=["positive", "negative"],
    ...     max_epochs=2,
    ...     early_stopping=False,
    ...     random_state=0,
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tuned = fine_tune(est.fit(texts, y), texts, y, output_dir=folder, args={"max_steps": 6})
    >>> tuned.embedder_.adapter  # doctest: +ELLIPSIS
    LowRankAdapter(36 layers, rank 16, ...)
    >>> tuned.score(texts, y) > est.score(texts, y)
    True
    """
    import_optional("accelerate", "finetune", "Fine-tuning")
    fit_params = without_single_rows(fit_params)
    check_start(est, X, lora, eval_fraction, fit_params)
    check_same_rows(X, y=y, **fit_params)
    groups = fit_params.pop("groups", None)
    ensure_fitted(est.embedder_)
    config = lora_config(est.embedder_, lora)
    args = training_arguments(est, output_dir, args, lora=config is not None)
    run = Run.of(est, X, y, groups, fit_params, eval_fraction, args, config)
    run.claim(Path(args.output_dir))
    with _global_generators_kept():
        tuned, frozen = run.train()
        return run.result(tuned, frozen)


# ---------------------------------------------------------------------- checks


def check_start(est, X, lora, eval_fraction, fit_params):
    """Raise if an estimator, its data or an argument cannot be fine-tuned; no model is loaded."""
    if not isinstance(est, ImplicitRewardEstimator):
        raise TypeError(
            f"est is a {type(est).__name__}; expected an ImplicitRewardEstimator with an embedder. "
            "Instead of a pipeline, fit ImplicitRewardEstimator(embedder=...) on the texts."
        )
    check_is_fitted(est, "model_")
    embedder = getattr(est, "embedder_", None)
    if embedder is None:
        raise ImplicitRMError(
            "est was fitted on vectors, so that there is no language model to train. Fit "
            "ImplicitRewardEstimator(embedder=...) on the texts of the log."
        )
    if isinstance(X, str | PathLike) or is_numeric(X):
        raise ImplicitRMError(
            "X holds vectors, or is a path of them, but a language model reads text. Pass the "
            "texts that est was fitted on."
        )
    beside = getattr(est, "side_columns_", ())
    if beside:
        raise ImplicitRMError(
            f"est reads the columns {list(beside)} beside the text, but fine_tune trains on the "
            "text alone. Fit est without reward_features and propensity_features that name them."
        )
    unknown = sorted(set(fit_params) - set(FIT_PARAMS))
    if unknown:
        raise TypeError(
            f"{unknown[0]!r} is not an argument of fine_tune or of fit. Expected one of "
            f"{', '.join(FIT_PARAMS)}."
        )
    had_users, has_users = hasattr(est, "user_loading_"), fit_params.get("user_id") is not None
    if had_users != has_users:
        raise ImplicitRMError(
            f"est was fitted {'with' if had_users else 'without'} user_id, but fine_tune was "
            f"called {'with' if has_users else 'without'}. "
            + ("Pass the ids." if had_users else "Leave it out, or fit est with it.")
        )
    if has_users and fit_params.get("response_id") is not None:
        raise ImplicitRMError(
            "fine_tune is not available with user_id and response_id together: its batches and "
            "its evaluation are by user or by response, not by both. Leave one of the two out."
        )
    objective = est.objective_
    reasons = (
        (not objective.models_actions, "does not model P(y | x), so that nothing can be compared"),
        (objective.pairs, "compares pairs of responses, and batches are made of single ones"),
        (not objective.incremental, "needs the whole log beside a batch"),
    )
    for applies, reason in reasons:
        if applies:
            raise ImplicitRMError(
                f"objective={type(objective).__name__} is not supported by fine_tune: it {reason}. "
                "Fit est with objective='stratified'."
            )
    is_share = isinstance(eval_fraction, Real) and 0 < eval_fraction < 1
    if eval_fraction is not None and not is_share:
        raise ImplicitRMError(
            f"eval_fraction must lie between 0 and 1, got {eval_fraction!r}. None is the "
            "validation_fraction of est."
        )
    if embedder.device_map is not None:
        raise ImplicitRMError(
            f"the embedder has device_map={embedder.device_map!r}, which the Trainer cannot "
            "train. Leave it out; LoRA on one GPU needs little more than the model."
        )
    is_gguf = str(embedder.model).endswith(".gguf") or "gguf_file" in (embedder.model_kwargs or {})
    if lora is False and (is_gguf or embedder.trust_remote_code):
        kind = "is a .gguf file" if is_gguf else "brings code of its own"
        raise ImplicitRMError(
            f"lora=False writes a whole model, but model={embedder.model!r} {kind}. Use lora=True, "
            "or a model of another form."
        )


def lora_config(embedder, lora):
    """Return the LoraConfig with the layers it changes, None without LoRA.

    Raises
    ------
    TypeError, ValueError
        If it is of another kind, not supported, or fits to no layer of the model.
    """
    if lora is False:
        return None
    peft = import_optional("peft", "finetune", "Fine-tuning with LoRA")
    skeleton = embedder.skeleton()
    name = f"model={embedder.model!r}"
    if lora is True:
        from transformers.pytorch_utils import Conv1D

        layers = [
            layer
            for layer, module in skeleton.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D) and "pooler" not in layer.split(".")
        ]
        if not layers:
            raise ImplicitRMError(
                f"{name} has no linear layers for LoRA to change. Use lora=False, or a "
                "peft.LoraConfig that names its layers."
            )
        return peft.LoraConfig(r=16, lora_alpha=32, target_modules=layers)
    if not isinstance(lora, peft.LoraConfig):
        raise TypeError(
            f"lora must be True, False or a peft.LoraConfig, got {type(lora).__name__}. Pass one "
            "of them."
        )
    for option in ("use_dora", "modules_to_save", "layer_replication", "target_parameters"):
        if getattr(lora, option, None):
            raise ImplicitRMError(
                f"lora has {option}={getattr(lora, option)!r}, which cannot be written as "
                "low-rank change of linear layers. Leave it out, or use lora=False."
            )
    if lora.bias != "none" or lora.init_lora_weights not in (True, "gaussian"):
        raise ImplicitRMError(
            "lora must leave the base model as it is: expected bias='none' and "
            f"init_lora_weights=True or 'gaussian', got {lora.bias!r} and "
            f"{lora.init_lora_weights!r}."
        )
    try:
        wrapped = peft.inject_adapter_in_model(copy.deepcopy(lora), skeleton)
    except ValueError as error:
        raise ImplicitRMError(
            f"{name} has no layers for this lora: {' '.join(str(error).split())} Name layers of it "
            "in target_modules, or use lora=True."
        ) from error
    for layer in _lora_layers(wrapped).values():
        if not layer.lora_A:
            raise ImplicitRMError(
                f"lora changes a {type(layer.get_base_layer()).__name__}; expected linear layers "
                "only. Name them in target_modules."
            )
    return copy.deepcopy(lora)


def _lora_layers(network):
    """Return the layers that LoRA changes, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: m for name, m in network.named_modules() if isinstance(m, LoraLayer)}


def training_arguments(est, output_dir, args, *, lora):
    """Return `TrainingArguments`: those given, or the recipe with what a dict changes in it."""
    from transformers import TrainingArguments

    if not isinstance(output_dir, str | PathLike):
        raise TypeError(
            f"output_dir must be a str or path-like, got {type(output_dir).__name__}. Pass the "
            "folder for checkpoints and tuned weights."
        )
    output_dir = os.fspath(output_dir)
    if isinstance(args, TrainingArguments):
        args = copy.copy(args)
        args.output_dir, args.remove_unused_columns = output_dir, False
    elif args is None or isinstance(args, Mapping):
        given = dict(args or {})
        if "output_dir" in given:
            raise ImplicitRMError(
                "args holds output_dir, which is an argument of fine_tune. Leave it."
            )
        args = _recipe(est, output_dir, given, lora)
    else:
        raise TypeError(
            f"args must be a dict or transformers.TrainingArguments, got {type(args).__name__}. "
            "Pass single arguments as a dict."
        )
    # Which the Trainer finds out only after the model is loaded and the folder is made.
    for name, least in LEAST.items():
        value = getattr(args, name)
        if not isinstance(value, Real) or not least <= value < np.inf:
            raise ImplicitRMError(
                f"args holds {name}={value!r}; expected a number of at least {least}."
            )
    _check_engine(args)
    if args.n_gpu > 1:
        raise ImplicitRMError(
            f"one process sees {args.n_gpu} GPUs, over which the Trainer would split the batches. "
            "Start one process for each with torchrun, or set CUDA_VISIBLE_DEVICES."
        )
    return args


def _check_engine(args):
    """Raise if args ask for an engine that spreads the weights in a form that is not supported."""
    deepspeed = getattr(args, "hf_deepspeed_config", None)
    if deepspeed is not None and deepspeed.is_zero3():
        raise ImplicitRMError(
            "args hold a configuration of DeepSpeed ZeRO 3, but fine_tune reads the heads whole "
            "between steps. Use ZeRO 1 or 2, or args={'fsdp': True}, which spreads the weights too."
        )
    if not args.fsdp:
        if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
            raise ImplicitRMError(
                "FSDP is set by the environment (ACCELERATE_USE_FSDP), which leaves args without "
                "it. Start with torchrun, and pass args={'fsdp': True}."
            )
        return
    plugin = getattr(args, "fsdp_plugin_args", None) or {}
    if plugin.get("fsdp_version") != 2:
        raise ImplicitRMError(
            "args ask for FSDP in another version than 2. Pass fsdp=True, and leave version and "
            "xla out of fsdp_config; it needs transformers 5."
        )
    if plugin.get("cpu_ram_efficient_loading"):
        raise ImplicitRMError(
            "args hold cpu_ram_efficient_loading in fsdp_config, but each process of fine_tune "
            "loads the model. Leave it out."
        )
    if args.world_size < 2:
        raise ImplicitRMError(
            "args hold fsdp, which spreads weights over processes, but this is a single one. "
            "Start one process for each GPU with torchrun, or leave it out."
        )


def _recipe(est, output_dir, given, lora):
    from transformers import TrainingArguments

    on_cuda = resolve_device(est.embedder_.device).type == "cuda"
    epochs = given.get("num_train_epochs", EPOCHS)
    # Shares of the whole training.
    every = min(1 / (2 * epochs), 0.5) if epochs > 0 else 0.5
    recipe = {
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH_SIZE,
        "per_device_eval_batch_size": 2 * BATCH_SIZE,
        "learning_rate": LEARNING_RATE if lora else FULL_LEARNING_RATE,
        "weight_decay": est.weight_decay,
        "warmup_steps": 0.06,
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 1,
        "logging_steps": 0.05,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "seed": est.random_state if isinstance(est.random_state, int) else 42,
        "bf16": on_cuda and est.embedder_.dtype_ == "bfloat16",
        "use_cpu": resolve_device(est.embedder_.device).type == "cpu",
        "dataloader_pin_memory": on_cuda,
        "ddp_broadcast_buffers": False,  # they are equal in all processes
        "disable_tqdm": not est.verbose,
        "report_to": "none",
    }
    if given.get("eval_strategy") == "no":
        recipe["load_best_model_at_end"] = False  # which the Trainer refuses
    resume = given.pop("resume_from_checkpoint", None)
    known = TrainingArguments.__dataclass_fields__
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ImplicitRMError(
            f"args holds {unknown[0]!r}, which is not an argument of TrainingArguments. Check the "
            "spelling."
        )
    args = TrainingArguments(output_dir=output_dir, **recipe | given, remove_unused_columns=False)
    args.resume_from_checkpoint = resume
    return args


@contextlib.contextmanager
def _global_generators_kept():
    """Leave the global random states, which the Trainer seeds, as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


# ---------------------------------------------------------------------- the run


@dataclass(eq=False)
class Run:
    """A fine-tuning run: what is settled before a model is loaded, and what is made of it.

    Attributes
    ----------
    est : ImplicitRewardEstimator
        The start.
    tuned : ImplicitRewardEstimator
        A copy that gets what is learned; it knows the log already.
    X : text
    numbers : ndarray of int of shape (n,)
        The text of each row of X.
    tokens : TokenArrays
        Tokens of the distinct texts.
    data : TrainingData
        Its X are numbers of texts; split.
    plan : FitPlan
    args : TrainingArguments
    config : peft.LoraConfig or None
    head_scale : float
        As `HEAD_SCALE`.
    """

    est: Any
    tuned: Any
    X: Any
    numbers: Any
    tokens: TokenArrays
    data: TrainingData
    plan: FitPlan
    args: Any
    config: Any
    head_scale: float = HEAD_SCALE

    @classmethod
    def of(cls, est, X, y, groups, side, eval_fraction, args, config):
        """Read texts and log, and split them as `fit` does."""
        numbers, tokens = est.embedder_.tokenize_distinct(X)
        n_rows = len(numbers)
        assumptions = Assumptions.of(est).with_rates(est.false_action_rate_)
        log = reread_log(est, n_rows, y, side, purpose="fit")
        tuned = copy.deepcopy(est)
        take_evidence(tuned, log, assumptions)
        # Rows of one text have one reward, whatever columns of its vector the heads read.
        one = np.zeros(1, dtype=int)
        data = TrainingData(
            numbers[:, None].astype(np.float64),
            log,
            HeadColumns(one, one, 1),
            est.objective_,
            response_id=side.get("response_id"),
            groups=groups,
        )
        fraction = est.validation_fraction if eval_fraction is None else eval_fraction
        state = args.seed if est.random_state is None else copy.deepcopy(est.random_state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what cannot be held out is an error here
            data.split(fraction, own_random_state(state), est.max_epochs)
        if not len(data.valid):
            raise ImplicitRMError(
                f"too few rows can be held out of {n_rows}: training and held-out part need "
                "some with and some without actions. Collect more rows, or change eval_fraction."
            )
        tells = est.model_.log_loading is not None
        if tells and log.user is None:
            raise ImplicitRMError(
                "user_id has a user of its own in every row, but est knows users who differ in "
                "activity. Pass the ids of those who acted."
            )
        measurement = assumptions.measurement(data.log.signals)
        plan = FitPlan.of(est, HeadColumns.of(est), est.objective_, measurement, assumptions)
        per_step = args.per_device_train_batch_size * args.world_size
        plan = replace(plan, batch_size=per_step, n_users=log.n_users if tells else None)
        return cls(est, tuned, X, numbers, TokenArrays(tokens), data, plan, args, config)

    # ------------------------------------------------------------------ the folder

    def claim(self, folder):
        """Make the output folder that of this run, or raise if it is that of another one."""
        from accelerate import PartialState
        from transformers.trainer_utils import get_last_checkpoint

        state = PartialState()
        run, path = self.digest(), folder / RUN_FILE
        resumes = self.args.resume_from_checkpoint
        if not resumes and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(
                f"output_dir={str(folder)!r} holds another run, or other files. Choose a new "
                f"folder, or pass args={{'resume_from_checkpoint': True}} to continue that run."
            )
        if resumes:
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            if found.get("run") != run:
                raise FileExistsError(
                    f"output_dir={str(folder)!r} does not hold a run of this estimator, log and "
                    "lora, so that it cannot be resumed. Pass what the run was started with."
                )
            if resumes is True and get_last_checkpoint(str(folder)) is None:
                self.args.resume_from_checkpoint = None  # interrupted before the first one
        state.wait_for_everyone()
        if state.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"run": run}), encoding="utf-8")
        state.wait_for_everyone()

    def digest(self):
        """Return the hash of all that the run starts from."""
        log = self.data.log
        config = None if self.config is None else self.config.to_dict()
        arrays = [self.tokens.flat, self.tokens.lengths, self.data.X, self.data.train]
        arrays += [self.data.valid, log.actions, log.sample_weight]
        arrays += [log.labels, log.exposures, log.propensity, log.response, log.user]
        arrays += [value.cpu().numpy() for value in self.est.model_.state_dict().values()]
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        known = self.est.embedder_.fingerprint_, self._jsonable(config)
        digest.update(json.dumps(known, sort_keys=True).encode())
        return digest.hexdigest()

    @staticmethod
    def _jsonable(value):
        return json.loads(json.dumps(value, default=lambda v: sorted(map(str, v))))

    # ------------------------------------------------------------------ training

    def train(self):
        """Train, and return the trainer with the best weights, and what it was before."""
        from ._tuned import Start

        trainer = self.trainer()
        path = Path(self.args.output_dir) / FROZEN_FILE
        start = Start(trainer, FittedMixture.of(self.est), path)
        trainer.add_callback(start)
        trainer.train(resume_from_checkpoint=self.args.resume_from_checkpoint)
        trainer.accelerator.unwrap_model(trainer.model).take_average()
        if trainer.constraint is not None:
            self._impose_rate(trainer)
        return trainer, start.held_out

    def trainer(self):
        """Return the trainer of the model at its start."""
        from transformers import EarlyStoppingCallback, PrinterCallback, set_seed

        from ._tuned import RewardTrainer

        set_seed(self.args.seed)
        model = self.model()
        data, log = self.data, self.data.log
        constraint = self.plan.rate_constraint(model.heads, len(data.train))
        if constraint is None:
            model.start_at(self.head_scale)
        held_out = data.valid
        if log.response is not None:
            held_out = np.flatnonzero(np.isin(log.response, data.valid))
        stops = self.args.load_best_model_at_end
        trainer = RewardTrainer(
            model,
            self.args,
            rows=self.rows(model.heads),
            log=log.part(held_out, data.valid),
            texts=data.X[held_out, 0].astype(np.int64),
            weight=data.balanced_weights()[data.valid],
            clusters=self._clusters(),
            by_user=None if self.plan.n_users is None else partial(self._by_user, model.heads),
            mixture=FittedMixture.of(self.tuned),
            tokens=self.tokens,
            constraint=constraint,
            callbacks=[EarlyStoppingCallback(PATIENCE)] if stops else [],
        )
        if self.args.disable_tqdm:
            trainer.remove_callback(PrinterCallback)
        return trainer

    def model(self):
        """Return language model and heads as one module, at their start."""
        from ._tuned import KnownUsers, TunedReward

        est, plan = self.est, self.plan
        embedder = est.embedder_
        dtype = embedder.dtype_
        if self.config is None and dtype in ("float16", "bfloat16"):
            dtype = "float32"  # steps are smaller than the digits of half of them
        trunk = embedder.trunk(dtype)
        if self.config is not None:
            import peft

            with warnings.catch_warnings():
                # peft asks for names that newer versions of transformers call deprecated.
                warnings.simplefilter("ignore", FutureWarning)
                trunk.network = peft.get_peft_model(trunk.network, self.config)
        for name, parameter in trunk.named_parameters():
            if "pooler" in name.split("."):  # not read
                parameter.requires_grad_(False)
        heads = copy.deepcopy(est.model_).to("cpu")
        for layer in heads.dropouts():
            layer.p = est.dropout
        heads.requires_grad_(True)
        users = None
        if plan.n_users is not None:
            users = KnownUsers(plan.n_users, heads.config["n_members"], self.args.device)
        criterion = MemberRisk(
            plan.objective,
            plan.measurement,
            plan.assumptions.model_rates(plan.objective),
            users=users,
        )
        used = HeadColumns.of(est).used
        return TunedReward(trunk, heads, est.scaler_, used, criterion)

    def rows(self, heads):
        """Return `ResidentRows` of what is trained on, whose X are numbers of texts."""
        data = self.data
        weight = data.balanced_weights()
        rows, _ = data.parts(
            heads,
            self.plan.objective,
            self.plan.batch_size,
            np.random.RandomState(self.args.seed),
            weights=(weight, weight),
            parts=(data.train, data.valid[:0]),
        )
        rows.X = torch.as_tensor(data.X[:, 0].astype(np.int64))
        # The Trainer keeps the state of the global generator in its checkpoints, and no other.
        heads.set_generator(None)
        return rows

    def _by_user(self, heads, reward_logit, propensity_logit):
        """Return `Rows` of the users, given the logits of all texts."""

        def logits(X):
            texts = torch.as_tensor(X[:, 0].astype(np.int64))
            return reward_logit[:, texts], propensity_logit[:, texts]

        return rows_by_user(heads, self.plan, self.data, logits)

    def _impose_rate(self, trainer):
        """Shift the reward of each member, so that its mean over the log is exact, as in `fit`."""
        data = self.data
        first = data.usable if data.log.first is None else data.log.first[data.usable]
        texts, text = np.unique(data.X[first, 0].astype(np.int64), return_inverse=True)
        f, _ = trainer.logits(texts)
        weight = torch.as_tensor(data.log.sample_weight[data.usable])
        shift = trainer.constraint.shift(f[:, text], weight)
        heads = trainer.accelerator.unwrap_model(trainer.model).heads
        bias = heads.reward.biases[-1]
        with torch.no_grad():
            bias.add_(shift.to(bias)[:, None])

    # ------------------------------------------------------------------ the result

    def result(self, trainer, frozen):
        """Return the tuned estimator if it is better on held-out rows, else the one given."""
        sums = [
            torch.as_tensor(v) for v in (trainer.held_out(FittedMixture.of(self.tuned)), frozen)
        ]
        total = trainer.weight.sum()
        after, before = (float(v.sum() / total) for v in sums)
        gain = sums[0] - sums[1]
        error = float(torch.sqrt(((gain - gain.mean()) ** 2).sum()) / total)
        if not is_better(*sums):
            warn(
                "the tuned model is not better than the frozen one by more than a standard error, "
                "so the estimator is returned unchanged. The log-likelihood per held-out response "
                f"is {after:.4f}, and was {before:.4f} (standard error of the difference "
                f"{error:.4f}). Collect more rows, or try smaller steps or fewer epochs in args."
            )
            return self.est
        factors = trainer.factors
        if factors:
            trainer.accelerator.unwrap_model(trainer.model).scale_logits(factors)
        state = trainer.state
        history = [entry for entry in state.log_history if "eval_loss" in entry]
        self.tuned.fine_tuning_ = {
            "method": "all weights" if self.config is None else f"LoRA, rank {self.config.r}",
            "base_model": os.fspath(self.est.embedder_.model),
            "n_train": len(self.data.train),
            "n_held_out": len(self.data.valid),
            "log_likelihood": after,
            "log_likelihood_frozen": before,
            "standard_error": error,
            "factors": list(factors),
            "steps": state.global_step,
            "epochs": float(state.epoch or 0.0),
            "learning_rate": float(self.args.learning_rate),
            "batch_size": self.plan.batch_size * self.args.gradient_accumulation_steps,
            "seed": self.args.seed,
            "history": [
                {"step": entry["step"], "log_likelihood": -float(entry["eval_loss"])}
                for entry in history
            ],
        }
        self.assemble(trainer)
        self._take_users(trainer)
        self._verify(trainer)
        self._check_verdict()
        return self.tuned

    def assemble(self, trainer):
        """Give the tuned estimator what was learned: heads, and an embedder of the tuned model."""
        from ._tuned import whole

        est, tuned, folder = self.est, self.tuned, Path(self.args.output_dir)
        accelerator = trainer.accelerator
        model = accelerator.unwrap_model(trainer.model)
        tuned.model_.load_state_dict(
            {name: v.detach() for name, v in model.heads.state_dict().items()}
        )
        network = model.trunk.network
        embedder = clone(est.embedder_)
        if est.embedder_.commit_ is not None:
            embedder.set_params(revision=est.embedder_.commit_)
        saves = accelerator.is_main_process
        weights = network.state_dict()
        if self.config is not None:
            weights = whole({k: v for k, v in weights.items() if "lora_" in k}, True)
            embedder.set_params(adapter=adapter_of(network, weights, est.embedder_.adapter))
            if saves:
                network.save_pretrained(folder / "adapter", state_dict=weights)
        else:
            weights = whole(weights, saves)
            if saves:
                est.embedder_.save_network(network, folder / "model", weights)
            accelerator.wait_for_everyone()
            embedder = est.embedder_.moved_to(folder / "model")
        tuned.embedder = embedder
        tuned.embedder_ = clone(embedder).fit()
        for leftover in ("optimizer_state_", "random_state_"):
            vars(tuned).pop(leftover, None)

    def _take_users(self, trainer):
        """Give the tuned estimator what is known of users who differ in activity."""
        tuned = self.tuned
        if self.plan.n_users is not None:
            rows = trainer.by_user(*trainer.logits(np.arange(len(self.tokens.lengths))))
            loading = tuned.model_.loadings().detach().to("cpu", torch.float64)
            tuned.user_loading_ = loading.mean(0).numpy()
            tuned.user_activity_ = activity_of(rows, self.data.log)
        if hasattr(tuned, "user_loading_") and self.data.log.user is not None:
            n_rows = activity_of(None, self.data.log).n_rows
            tuned.identification_ = with_activity(
                tuned.identification_,
                tuned.user_loading_,
                n_rows,
                tuned.shared_examination is False,
            )

    def _clusters(self):
        """Return the group of each held-out response, equal texts where no groups were given."""
        data = self.data
        if data.groups is not None:
            return number_responses(data.groups[data.valid])[0]
        first = data.valid if data.log.first is None else data.log.first[data.valid]
        return np.unique(data.X[first, 0], return_inverse=True)[1]

    def _vectors(self, texts):
        """Return the columns in use of some texts, by the tuned embedder."""
        _, first = np.unique(self.numbers, return_index=True)
        rows = _rows_of(self.X, first[texts])
        return select_features(self.tuned, self.tuned.embedder_.transform(rows), reset=False)

    def _verify(self, trainer):
        """Compare the rewards of the result with those in training on some held-out texts."""
        from ..training._data import member_logits

        texts = np.unique(trainer.texts)[:8]
        expected, _ = trainer.logits(texts)
        tuned = self.tuned
        (found,) = member_logits(
            tuned.model_, self._vectors(texts), tuned.scaler_, ("reward_logit",), tuned.dtype
        )
        error = float((torch.sigmoid(found) - torch.sigmoid(expected)).abs().max())
        half = self.args.bf16 or self.args.fp16 or "16" in tuned.embedder_.dtype_
        half = half or tuned.dtype == "bfloat16"
        if not error < TOLERANCES[half]:
            raise RuntimeError(
                f"the tuned estimator gives other rewards than in training (they differ by "
                f"{error:.2g} on {len(texts)} texts). Please report this, with the model "
                f"{self.est.embedder_.model!r}."
            )

    def _check_verdict(self):
        """Lower the verdict on identification if the held-out rows contradict it."""
        tuned = self.tuned
        warn_not_identified(tuned.identification_, tuned.objective_)
        # What `fit` said of the choice of labels holds, and more texts would have to be read.
        held_out = HeldOut.of(self.data, whole=False)
        texts, of_row = np.unique(self.data.X[held_out.rows, 0].astype(int), return_inverse=True)
        rows = np.arange(len(of_row))
        held_out = replace(held_out, X=self._vectors(texts)[of_row], rows=rows)
        check_verdict(tuned, held_out)
        before = self.est.identification_
        if before.against and tuned.identification_.level == IDENTIFIED:
            tuned.identification_ = before  # what a log contradicts, a better fit does not mend
            warn_not_identified(before, tuned.objective_)


def adapter_of(network, weights, before=None):
    """Return what LoRA has learned, on top of an adapter that was in the weights already.

    Parameters
    ----------
    network : peft.PeftModel
    weights : dict of Tensor by name
        Those of LoRA, whole and on the CPU.
    before : LowRankAdapter, default=None
    """
    down, up = ({}, {}) if before is None else (dict(before.down), dict(before.up))
    prefix = len("base_model.model.")
    for long_name, layer in _lora_layers(network).items():
        (adapter,) = layer.active_adapters
        a, b = (
            weights[f"{long_name}.lora_{side}.{adapter}.weight"].float().numpy() for side in "AB"
        )
        name = long_name[prefix:]
        b = b * np.float32(layer.scaling[adapter])
        down[name] = np.concatenate([down[name], a]) if name in down else a
        up[name] = np.concatenate([up[name], b], axis=1) if name in up else b
    return LowRankAdapter(down, up)


def _rows_of(X, positions):
    """Return some rows of text, in the form that X has."""
    if hasattr(X, "iloc"):
        return X.iloc[positions]
    if hasattr(X, "select"):
        return X.select(positions)
    return X[positions] if isinstance(X, np.ndarray) else [X[i] for i in positions]
