"""What the lesson asks: a prediction, three exercises, and the study question."""

from collections.abc import Callable

import torch
from torch import Tensor

from recmtl_lessons.lessons.policy.activities import LESSON
from recmtl_lessons.models import gae, ppo_loss
from recmtl_lessons.teaching import Explorer
from recmtl_lessons.teaching.exercise import Exercise, Outcome, right, wrong
from recmtl_lessons.teaching.quiz import Predict, Quiz
from recmtl_lessons.teaching.study import KeyPoint, StudyQuestion

prediction = Predict(
    LESSON,
    "predict",
    "A recommender knows every user's tastes and satiation exactly, and always shows what is most likely to be clicked "
    "now. Satiation is strong. How far does it get on the way from chance (0) to the best possible (1)?",
    {
        "All of the way: whoever knows everything and takes the best each time cannot be beaten": "It takes the best "
        "of each step. What it shows now also decides how satiated the user is in the next steps, and it does not ask.",
        "About nine tenths: the steps are almost independent of each other": "They are not. A category that was shown "
        "twice is three levels up, and needs three steps of something else to be fresh again.",
        "About six tenths: it uses up its best category and pays for that later": "Knowing what pays now is one half "
        "of the problem. The other half is what it leaves behind, and that no perfect prediction of clicks contains.",
        "About a third: it loses nearly every user within a few steps": "It still follows tastes and avoids the most "
        "satiated categories, which is far better than chance.",
    },
)
SIX_TENTHS = tuple(prediction.choices)[2]


# Exercise: an end, or only a limit.


def _advantages(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
    """Backwards in time; the value counts unless the session is over, the chain is cut wherever it was cut."""
    advantages, running = torch.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + discount * next_values[t] * ~terminated[t] - values[t]
        running = delta + discount * gae_lambda * ~(terminated[t] | truncated[t]) * running
        advantages[t] = running
    return advantages


def _variant(bootstrap: Callable, goes_on: Callable, subtract: bool = True, powers: bool = True) -> Callable:
    """The same with another rule for what counts after a step, and for where the chain is cut."""

    def answer(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
        advantages, running = torch.zeros_like(rewards), 0.0
        for t in reversed(range(len(rewards))):
            counts = bootstrap(terminated[t], truncated[t])
            delta = rewards[t] + discount * next_values[t] * counts - (values[t] if subtract else 0.0)
            factor = discount * gae_lambda if powers else discount
            running = delta + factor * goes_on(terminated[t], truncated[t]) * running
            advantages[t] = running
        return advantages

    return answer


def _alive(terminated: Tensor, truncated: Tensor) -> Tensor:
    return ~terminated


def _uncut(terminated: Tensor, truncated: Tensor) -> Tensor:
    return ~(terminated | truncated)


def _always(terminated: Tensor, truncated: Tensor) -> Tensor:
    return torch.ones_like(terminated)


_LIMIT_IS_END = _variant(_uncut, _uncut)
_END_IS_LIMIT = _variant(_always, _uncut)
_NEVER_CUT = _variant(_alive, _alive)
_NO_BASELINE = _variant(_alive, _uncut, subtract=False)
_NO_LAMBDA = _variant(_alive, _uncut, powers=False)
_ALL_WRONG = _variant(_uncut, _alive)


def _next_rows_value(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
    return _advantages(rewards, values, torch.cat([values[1:], next_values[-1:]]), terminated, truncated,
                       discount, gae_lambda)  # fmt: skip


def _no_discount(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
    """The chain shrinks by lambda alone."""
    advantages, running = torch.zeros_like(rewards), 0.0
    delta = rewards + discount * next_values * ~terminated - values
    for t in reversed(range(len(rewards))):
        running = delta[t] + gae_lambda * ~(terminated[t] | truncated[t]) * running
        advantages[t] = running
    return advantages


def _forwards(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
    advantages, running = torch.zeros_like(rewards), 0.0
    delta = rewards + discount * next_values * ~terminated - values
    for t in range(len(rewards)):
        running = delta[t] + discount * gae_lambda * ~(terminated[t] | truncated[t]) * running
        advantages[t] = running
    return advantages


def _one_step(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
    return rewards + discount * next_values * ~terminated - values


def _sessions() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(4)
    rewards, values, next_values = torch.rand(3, 7, generator=generator).double()
    terminated = torch.tensor([False, False, True, False, False, False, False])
    truncated = torch.tensor([False, False, False, False, True, False, False])
    return rewards, values, next_values, terminated, truncated


def _check_returns(answer: Callable) -> Outcome:
    asked = _sessions()
    got = answer(*(part.clone() for part in asked), 0.9, 0.7)
    if not isinstance(got, Tensor) or got.shape != (7,):
        return wrong(f"Return a tensor (T,), here (7,). I got {getattr(got, 'shape', type(got).__name__)}.")
    expected, returns = gae(*asked, 0.9, 0.7)
    mistakes = (
        (
            _LIMIT_IS_END,
            "You take the time limit for an end: where it was truncated, `next_values` still counts.",
        ),
        (_END_IS_LIMIT, "You bootstrap where the user left. After `terminated` nothing more comes."),
        (_NEVER_CUT, "Your chain runs on over a truncated session into the next one. Cut it at both kinds of end."),
        (_NO_BASELINE, "An advantage is what came beyond the value: `values` must be subtracted."),
        (_NO_LAMBDA, "Your chain shrinks by the discount alone. Where is lambda?"),
        (_one_step, "These are the one-step differences (lambda = 0). Add the discounted chain of later ones."),
        (_ALL_WRONG, "The flags are exchanged: `terminated` takes `next_values` out, both of them cut the chain."),
        (_next_rows_value, "You read `values[t + 1]`. Where a session ended, that is the first state of another one: "
         "`next_values[t]` is the state that was reached."),
        (_no_discount, "Your chain shrinks by lambda alone. Where is the discount?"),
        (_forwards, "You walk forwards, so that a step gets what came before it. Walk backwards."),
    )  # fmt: skip
    got = got.detach().double()
    for mistaken, message in mistakes:
        if torch.allclose(got, mistaken(*asked, 0.9, 0.7), atol=1e-6):
            return wrong(message)
    if torch.allclose(got, returns, atol=1e-6):
        return wrong("These are the returns, advantage plus value. Return the advantages.")
    if not torch.allclose(got, expected, atol=1e-6):
        return wrong(f"For my example I expected {_rounded(expected)}, and got {_rounded(got)}.")
    return right("Two questions, two flags: does anything come after this step, and does the chain go on?")


def _rounded(values: Tensor) -> list[float]:
    return [round(x, 3) for x in values.tolist()]


exercise_returns = Exercise(
    LESSON,
    "exercise-returns",
    title="An end, or only a limit",
    level="intermediate",
    minutes=15,
    task="All arguments but the last two are tensors (T,), one row a step, the flags of dtype bool; several sessions "
    "stand one after another. "
    "`next_values[t]` is the value of the state that step t really reached. Return the advantages (T,): "
    "δ = reward + discount · next value − value, added up backwards with the factor discount · gae_lambda. Mind what "
    "`terminated` and `truncated` each change.",
    check=_check_returns,
    hints=[
        "Walk backwards and keep a running sum: running = delta + discount * gae_lambda * running.",
        "Which flag says that nothing more would have come? That one takes `next_values` out. Both cut the sum.",
    ],
    solution=_advantages,
    wrong_answers={
        "limit is an end": (_LIMIT_IS_END, "take the time limit for an end"),
        "end is a limit": (_END_IS_LIMIT, "bootstrap where the user left"),
        "never cut": (_NEVER_CUT, "into the next one"),
        "no baseline": (_NO_BASELINE, "must be subtracted"),
        "no lambda": (_NO_LAMBDA, "Where is lambda"),
        "one step": (_one_step, "lambda = 0"),
        "flags exchanged": (_ALL_WRONG, "flags are exchanged"),
        "the next row's value": (_next_rows_value, "state that was reached"),
        "no discount": (_no_discount, "Where is the discount"),
        "forwards": (_forwards, "Walk backwards"),
        "returns": (lambda *a: _advantages(*a) + a[1], "advantage plus value"),
    },
)


# Exercise: draw among what is allowed.


def _masked_log_probs(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits of what is not allowed become minus infinity; the softmax then divides what is left."""
    return logits.masked_fill(~mask, float("-inf")).log_softmax(-1)


def _check_mask(answer: Callable) -> Outcome:
    logits = torch.tensor([[2.0, 0.5, -1.0, 0.0], [-3.0, -2.5, -4.0, -2.0], [0.3, 0.1, 0.2, 0.0]])
    mask = torch.tensor([[True, True, False, True], [False, True, True, False], [True, False, False, False]])
    got = answer(logits.clone(), mask.clone())
    if not isinstance(got, Tensor) or got.shape != logits.shape:
        return wrong(f"Return a tensor of the shape of logits. I got {getattr(got, 'shape', type(got).__name__)}.")
    got = got.detach().float()
    expected = _masked_log_probs(logits, mask)
    mistakes = (
        (expected.exp(), "These are probabilities. Return their logarithms."),
        (_masked_log_probs(logits, ~mask), "You forbid what is allowed: True means allowed."),
        ((logits * mask).log_softmax(-1), "A logit of 0 is no zero probability: after your multiplication every action "
         "can still be drawn. What logit belongs to probability 0?"),
        ((logits.softmax(-1) * mask).log(), "Your rows no longer sum to 1: what is forbidden keeps its share. Mask "
         "before the softmax."),
        (logits.log_softmax(-1).masked_fill(~mask, 0.0), "A log-probability of 0 is certainty: your forbidden actions "
         "have probability 1."),
        (logits.log_softmax(-1), "You did not use the mask."),
        (logits.masked_fill(~mask, float("-inf")).log_softmax(0), "You took the softmax over the rows of the batch. "
         "Each row is a state: it runs over its actions, the last dimension."),
        (logits.masked_fill(~mask, float("-inf")), "These are masked logits. A softmax must still make them sum to 1."),
    )  # fmt: skip
    for mistaken, message in mistakes:
        if _same(got, mistaken):
            return wrong(message)
    chances = got.exp()
    if not _same(got, expected):
        left, sums = float(chances[~mask].max()), [round(x, 2) for x in chances.sum(1).tolist()]
        if left > 0 and torch.allclose(chances.sum(1), torch.ones(3), atol=1e-3):
            return wrong(f"A small chance is left for what is forbidden, {left:.2g}. Which logit leaves none?")
        return wrong(f"For my example I expected other numbers; your rows' probabilities sum to {sums}.")
    return right("What is forbidden has exactly no chance, and the rest share the whole.")


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are log-probabilities of one policy; one of probability 0 may be any that exp takes there."""
    return torch.allclose(a.exp(), b.exp(), atol=1e-5) and torch.equal(a.exp() == 0, b.exp() == 0)


exercise_mask = Exercise(
    LESSON,
    "exercise-mask",
    title="Draw among what is allowed",
    level="beginner",
    minutes=5,
    task="`logits` (B, A) are a policy's, `mask` (B, A) is True where an action is allowed (what is sold out "
    "is not). Return the log-probabilities (B, A) of the policy that never draws what is not allowed: −inf there.",
    check=_check_mask,
    hints=["Which number's exponential is 0?", "`masked_fill` first, `log_softmax` second."],
    solution=_masked_log_probs,
    wrong_answers={
        "probabilities": (lambda x, m: _masked_log_probs(x, m).exp(), "their logarithms"),
        "inverted": (lambda x, m: _masked_log_probs(x, ~m), "True means allowed"),
        "logits times mask": (lambda x, m: (x * m).log_softmax(-1), "no zero probability"),
        "probabilities times mask": (lambda x, m: (x.softmax(-1) * m).log(), "no longer sum to 1"),
        "zero log-probability": (lambda x, m: x.log_softmax(-1).masked_fill(~m, 0.0), "certainty"),
        "no mask": (lambda x, m: x.log_softmax(-1), "did not use the mask"),
        "only logits": (lambda x, m: x.masked_fill(~m, float("-inf")), "must still make them sum"),
        "over the batch": (lambda x, m: x.masked_fill(~m, float("-inf")).log_softmax(0), "over the rows"),
        "not low enough": (lambda x, m: x.masked_fill(~m, -10.0).log_softmax(-1), "A small chance is left"),
        "rescaled wrongly": (lambda x, m: (x.softmax(-1) * m / m.sum(-1, keepdim=True)).log(), "sum to"),
    },
)


# Exercise: the clipped step.


def _clipped_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The smaller of the two, so that going too far never looks good."""
    ratio = (log_prob - old_log_prob).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def _check_ratio(answer: Callable) -> Outcome:
    generator = torch.Generator().manual_seed(3)
    old = -torch.rand(12, generator=generator) * 2
    new = (old + 0.5 * torch.randn(12, generator=generator)).requires_grad_()
    advantage = torch.randn(12, generator=generator)
    got = answer(new, old, advantage, 0.2)
    if not isinstance(got, Tensor) or got.ndim:
        return wrong(f"Return one number, the mean, as a tensor. I got {getattr(got, 'shape', type(got).__name__)}.")
    if not got.requires_grad:
        return wrong("No gradient reaches `log_prob`: nothing would be learned.")
    ratio, value = (new - old).exp(), float(got.detach())
    clipped = ratio.clamp(0.8, 1.2) * advantage
    mistakes = (
        (torch.minimum(ratio * advantage, clipped).mean(), "The sign: a loss is made smaller, you want more of what "
         "brought more than expected."),
        (-torch.maximum(ratio * advantage, clipped).mean(), "You take the better of the two. With the worse one, going "
         "beyond the clip is never rewarded."),
        (-clipped.mean(), "You clip always. Where a ratio went the wrong way, the gradient must bring it back: take "
         "the minimum with the unclipped product."),
        (-(ratio * advantage).mean(), "Nothing is clipped."),
        (-((new - old) * advantage).mean(), "The ratio is the exponential of the difference of log-probabilities."),
        (-torch.minimum((new - old) * advantage, (new - old).clamp(0.8, 1.2) * advantage).mean(), "The ratio is the "
         "exponential of the difference of log-probabilities."),
        (-(torch.minimum(ratio, ratio.clamp(0.8, 1.2)) * advantage).mean(), "You took the smaller ratio. Where the "
         "advantage is negative that makes the product the larger one: multiply first."),
        (-torch.minimum(advantage / ratio, (1 / ratio).clamp(0.8, 1.2) * advantage).mean(), "Your ratio is upside "
         "down: new over old."),
        (-torch.minimum(ratio * advantage, clipped).sum(), "You sum over the rows. Return the mean."),
        (-(new * advantage).mean(), "That is the plain policy gradient. Where is the old policy?"),
    )  # fmt: skip
    for mistaken, message in mistakes:
        if abs(value - float(mistaken.detach())) < 1e-6:
            return wrong(message)
    zero = torch.zeros(12)
    _, parts = ppo_loss(new, old, zero, zero, advantage, zero, clip=0.2)
    if abs(value - float(parts["policy_loss"])) > 1e-5:
        return wrong(f"For my example I expected {float(parts['policy_loss']):.4f}, and got {value:.4f}.")
    return right("At unchanged weights all ratios are 1, and its gradient is the plain policy gradient.")


exercise_ratio = Exercise(
    LESSON,
    "exercise-ratio",
    title="The clipped step",
    level="intermediate",
    minutes=10,
    task="`log_prob` and `old_log_prob` (B,) are the log-probabilities of the actions taken, now and when they "
    "were taken; `advantage` (B,). Return the policy's part of PPO's loss: minus the mean of the smaller of ratio · "
    "advantage and clipped ratio · advantage, as a tensor with its gradient. The ratio is clipped to "
    "[1 − clip, 1 + clip].",
    check=_check_ratio,
    hints=["ratio = exp(log_prob - old_log_prob).", "`ratio.clamp(1 - clip, 1 + clip)`, then `torch.minimum`."],
    solution=_clipped_loss,
    wrong_answers={
        "sign": (lambda n, o, a, c: -_clipped_loss(n, o, a, c), "The sign"),
        "maximum": (
            lambda n, o, a, c: -torch.maximum((n - o).exp() * a, (n - o).exp().clamp(1 - c, 1 + c) * a).mean(),
            "the better of the two",
        ),
        "always clipped": (lambda n, o, a, c: -((n - o).exp().clamp(1 - c, 1 + c) * a).mean(), "You clip always"),
        "never clipped": (lambda n, o, a, c: -((n - o).exp() * a).mean(), "Nothing is clipped"),
        "no exponential": (lambda n, o, a, c: -((n - o) * a).mean(), "exponential of the difference"),
        "no exponential inside": (
            lambda n, o, a, c: -torch.minimum((n - o) * a, (n - o).clamp(1 - c, 1 + c) * a).mean(),
            "exponential of the difference",
        ),
        "smaller ratio": (
            lambda n, o, a, c: -(torch.minimum((n - o).exp(), (n - o).exp().clamp(1 - c, 1 + c)) * a).mean(),
            "multiply first",
        ),
        "upside down": (lambda n, o, a, c: _clipped_loss(-n, -o, a, c), "upside down"),
        "sum": (lambda n, o, a, c: 12 * _clipped_loss(n, o, a, c), "You sum over the rows"),
        "no old policy": (lambda n, o, a, c: -(n * a).mean(), "Where is the old policy"),
        "detached": (lambda n, o, a, c: _clipped_loss(n, o, a, c).detach(), "No gradient"),
    },
)


# The study question.

_WORKED = """
A recommender that plans meets all that makes reinforcement learning hard, several times over.

What pays now is not what pays. What is shown changes the user: satiation rises, patience runs out, and the harm comes
steps later. A bandit that knew every taste got about six tenths of the way from chance to the best. To plan, a policy
must learn values from few and noisy rewards, so that early in training a bandit can be ahead. Each session is a real
person, so sessions are few; after nearly thirteen thousand steps on each task our policies were about half way.

The user is hidden. The system sees a profile and what it has shown; tastes it has to infer. The best possible return
that we compare with is that of somebody who knows them.

The end of a log is not the end of a session. Where watching stops at a time limit, the future must be bootstrapped.
Taken for an end, it cost the values four tenths of their size here.

Several tasks share one network. They have their own actions and rewards, and a shared trunk takes steps for all of
them. Where they have something in common, tastes or only the rules of satiation, the sessions of one teach the others:
with few sessions one network for all did better than one for each at as many parameters. Where they had nothing in
common it gained nothing, and in four of six further runs it cost a little. In a real app nobody tells beforehand which
it is, so compare.

Our advice, not measured here: measure a policy against chance, against a good bandit, and where you can against an
optimum, before you believe that planning pays; and try it in a simulator first, since exploring costs users' patience.
"""


def study_question(evidence_from: Explorer) -> StudyQuestion:
    """The lesson's study question, with the explorer it takes its evidence from."""
    return StudyQuestion(
        LESSON,
        "study",
        level="intermediate",
        question="What makes multi-task reinforcement learning hard for recommenders? Name what is hard about planning "
        "for a user, what is hard about seeing one, and what is hard about sharing one network among several tasks.",
        evidence_prompt="In the training explorer, with 40 rollouts, set the discount to 0 and to 0.9, with satiation "
        "1 and with 0. Then set the sharing of tastes to 0. Note how far each comes, and who is ahead early. (Four "
        "seeds: leads under 0.05 may be luck. Try others.)",
        checks=[
            Quiz(
                LESSON,
                "study/check-1",
                "Satiation is taken away. What happens to the lead of the policy that plans over the myopic bandit?",
                {
                    "It stays: planning ahead always brings at least a little more": "There is nothing to plan for: "
                    "what is shown changes nothing about the next step. The exact optimum is myopic then.",
                    "It goes: what is shown now no longer changes what pays later": "Then the best of each step is the "
                    "best of all, and the control in the lesson shows no lead.",
                    "It grows: without satiation there is more reward to be planned for": "There is more reward, and "
                    "the bandit gets as much of it.",
                },
                "It goes: what is shown now no longer changes what pays later",
            ),
            Quiz(
                LESSON,
                "study/check-2",
                "A log stops at 20 steps, though the user would have stayed. What is the target of the last value?",
                {
                    "The reward alone, because no later reward is in the log": "That is the mistake of the lesson: "
                    "values become too small, as if all users left at the limit.",
                    "Nothing: the last step of a session has to be thrown away": "It need not be. The state that was "
                    "reached is known, and so is an estimate of its value.",
                    "The reward plus the discounted value of the state reached": "The limit is an end of watching, "
                    "not of the session. Only where the user left does nothing come.",
                },
                "The reward plus the discounted value of the state reached",
            ),
            Quiz(
                LESSON,
                "study/check-3",
                "Three surfaces want unrelated things of their users, without satiation. What does one network bring?",
                {
                    "About as much as one network for each, at as many parameters": "So the lesson's control found on "
                    "eight seeds: no gain. On 48 others it cost a little, 0.03 of the way, though not in every run.",
                    "Far less, as unrelated tasks always destroy each other's layers": "They can. Here the gradients "
                    "were nearly orthogonal, and the network had room for all three.",
                    "Still more, as a wider shared trunk helps whatever the tasks are": "That was a fair suspicion, "
                    "and why the control has as many parameters on both sides.",
                },
                "About as much as one network for each, at as many parameters",
            ),
        ],
        points=[
            KeyPoint(
                "actions change the user, and rewards come late",
                (
                    r"satiat\w*",
                    r"long[- ]term",
                    r"\blater\b|delayed?|\bfuture\b",
                    r"plan(s|ning)?\b",
                    r"myopi\w*|greedy",
                ),
                "What pays now can cost more later. A bandit does not see it.",
            ),
            KeyPoint(
                "the user is hidden",
                (r"hidden", r"partial\w* observ\w*", r"cannot (see|observe)|unobserv\w*", r"infer\w*"),
                "Tastes have to be inferred from a profile.",
            ),
            KeyPoint(
                "sessions are few, rewards noisy, exploring costs",
                (r"few\b[^.;]{0,30}(session|user|data)", r"nois\w*", r"explor\w*", r"sample|data[- ]hungry|expensive"),
                "Every step of learning is a person's time.",
            ),
            KeyPoint(
                "tasks may help or disturb each other",
                (
                    r"interfer\w*|conflict\w*|negative transfer",
                    r"(tasks?|surfaces?)[^.;]{0,60}(share|common|related)",
                    r"shar(e|es|ed|ing)[^.;]{0,60}(task|tast|surface|network|trunk)",
                    r"gradients?",
                ),
                "Sharing pays where there is something in common.",
            ),
            KeyPoint(
                "each task has its own actions and rewards",
                (r"own (actions?|rewards?)|different (actions?|rewards?)|(actions?|rewards?) differ|scales?",),
                "Heads differ, and so do the sizes of their losses.",
            ),
            KeyPoint(
                "a time limit is not an end",
                (r"time limit", r"truncat\w*", r"bootstrap\w*", r"cut off"),
                "Values become too small when a limit is taken for an end.",
            ),
            KeyPoint(
                "how to know: baselines and ceilings",
                (
                    r"baseline|ceiling|optim(um|al)|upper bound",
                    r"compar\w*",
                    r"(against|with) (chance|random|a bandit)",
                ),
                "Without a bandit and an optimum beside it, a return means little.",
            ),
        ],
        worked=_WORKED,
        start="A recommender's actions change …",
        evidence_from=evidence_from,
    )
