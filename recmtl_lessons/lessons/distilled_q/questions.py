"""What the lesson asks: a prediction, three exercises, and the study question."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from recmtl_lessons.lessons.distilled_q.activities import LESSON
from recmtl_lessons.teaching import Explorer
from recmtl_lessons.teaching.exercise import Exercise, Outcome, right, wrong
from recmtl_lessons.teaching.quiz import Predict, Quiz
from recmtl_lessons.teaching.study import KeyPoint, StudyQuestion

prediction = Predict(
    LESSON,
    "predict",
    "One student is trained at T = 1, another at T = 0.03, where little more is left of a teacher's answer than which "
    "action is best. In the end both only ever take their best action. After a short training, which keeps more of its "
    "teachers' return?",
    {
        "T = 0.03: it is trained on just what it will be asked for, and on nothing else": "It is. But an answer that "
        "names an action says little: nothing of how near the second best comes, and most of what there is to learn is "
        "in that.",
        "T = 1: it is told of every action how good it is, and can tell states apart by it": "The better an action, "
        "the more it counts, and all of them count. One such answer tells more than one label.",
        "Neither: the teacher's best action is the same at both, and only that one is taken": "It is the same, but the "
        "student has to find out in which states it is the best. That takes longer from labels.",
    },
)
AT_ONE = tuple(prediction.choices)[1]


# Exercise: the distillation loss.


def _loss(student: Tensor, teacher: Tensor, temperature: float, scale: float) -> Tensor:
    """T squared times the divergence of the student from the teacher, summed over actions."""
    expected = (teacher.detach() / scale / temperature).log_softmax(-1)
    found = (student / scale / temperature).log_softmax(-1)
    return temperature**2 * (expected.exp() * (expected - found)).sum(-1).mean()


def _no_square(s: Tensor, t: Tensor, temperature: float, scale: float) -> Tensor:
    return _loss(s, t, temperature, scale) / temperature**2


def _mean_of_actions(s: Tensor, t: Tensor, temperature: float, scale: float) -> Tensor:
    return _loss(s, t, temperature, scale) / s.shape[-1]


def _backwards(s: Tensor, t: Tensor, temperature: float, scale: float) -> Tensor:
    return _loss(t, s, temperature, scale) + 0 * s.sum()


def _no_scale(s: Tensor, t: Tensor, temperature: float, scale: float) -> Tensor:
    return _loss(s, t, temperature, 1.0)


def _teacher_alone(s: Tensor, t: Tensor, temperature: float, scale: float) -> Tensor:
    return _loss(s * temperature, t, temperature, scale)


def _summed(s: Tensor, t: Tensor, temperature: float, scale: float) -> Tensor:
    return _loss(s, t, temperature, scale) * len(s)


def _once_the_temperature(s: Tensor, t: Tensor, temperature: float, scale: float) -> Tensor:
    return _loss(s, t, temperature, scale) / temperature


def _over_the_batch(s: Tensor, t: Tensor, temperature: float, scale: float) -> Tensor:
    expected, found = ((q / scale / temperature).log_softmax(0) for q in (t.detach(), s))
    return temperature**2 * (expected.exp() * (expected - found)).sum(-1).mean()


def _cross_entropy(s: Tensor, t: Tensor, temperature: float, scale: float) -> Tensor:
    expected, found = ((q / scale / temperature).log_softmax(-1) for q in (t.detach(), s))
    return -(temperature**2) * (expected.exp() * found).sum(-1).mean()


def _no_logarithm(s: Tensor, t: Tensor, temperature: float, scale: float) -> Tensor:
    """As `kl_div` has it, given probabilities where it expects logarithms."""
    expected, found = ((q / scale / temperature).softmax(-1) for q in (t.detach(), s))
    return temperature**2 * (expected * (expected.log() - found)).sum(-1).mean()


def _attached(s: Tensor, t: Tensor, temperature: float, scale: float) -> Tensor:
    expected = (t / scale / temperature).log_softmax(-1)
    found = (s / scale / temperature).log_softmax(-1)
    return temperature**2 * (expected.exp() * (expected - found)).sum(-1).mean()


def _check_loss(answer: Callable) -> Outcome:
    generator = torch.Generator().manual_seed(3)
    student, teacher = (q.clone().requires_grad_() for q in torch.randn(2, 5, 4, generator=generator))
    asked = (student, teacher, 3.0, 0.5)
    got = answer(*asked)
    if not isinstance(got, Tensor) or got.numel() != 1:
        return wrong("Return one number as a tensor: the mean over the states of the batch.")
    mistakes = (
        (_no_square, "The factor T² is missing: at a high temperature the teacher would hardly be heard."),
        (_mean_of_actions, "You took the mean over actions. A divergence is their sum."),
        (_backwards, "Teacher and student are exchanged: the teacher's probabilities weigh the terms."),
        (_no_scale, "Q-values have the unit of the reward. Where is the scale?"),
        (_teacher_alone, "You softened the teacher alone. Divide the student by the same temperature."),
        (_summed, "You summed over the states. Take their mean, so that it does not depend on the batch's size."),
        (_once_the_temperature, "T stands in front once: slope and difference each fall as 1/T. It takes T²."),
        (_over_the_batch, "You took the softmax over the batch. A policy is over the actions, the last dimension."),
        (
            _cross_entropy,
            "This is the cross-entropy: it lacks the teacher's own entropy, and is not 0 for a perfect copy.",
        ),
        (_no_logarithm, "The student stands there without its logarithm. `kl_div` expects `log_softmax` of it."),
    )
    for mistaken, message in mistakes:
        if math.isclose(got.item(), mistaken(*asked).item(), rel_tol=1e-4):
            return wrong(message)
    if not math.isclose(got.item(), _loss(*asked).item(), rel_tol=1e-4):
        return wrong(f"For my example I expected {_loss(*asked).item():.4f}, and got {got.item():.4f}.")
    to_student, to_teacher = _gradients(got, student, teacher)
    if to_teacher is not None:
        return wrong("A gradient goes to the teacher: it would learn to be copied. Detach its Q-values.")
    if to_student is None:
        return wrong("The value is right, but no gradient reaches the student: it would learn nothing.")
    return right("The same temperature for both, T² in front, a sum over actions, and no way to the teacher.")


def _gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor | None, ...]:
    if not loss.requires_grad:
        return (None,) * len(inputs)
    return torch.autograd.grad(loss, inputs, allow_unused=True)


exercise_loss = Exercise(
    LESSON,
    "exercise-loss",
    title="The distillation loss",
    level="intermediate",
    minutes=10,
    task="`student` and `teacher` (batch, actions) are Q-values. Return the distillation loss at `temperature`: T² "
    "times KL(teacher ‖ student) of their softened policies, summed over actions, the mean over states. Divide "
    "Q-values by `scale` first. The teacher is not to learn: no gradient may reach it.",
    check=_check_loss,
    hints=[
        "KL(p ‖ q) is the sum over actions of p (log p − log q). Which of the two is the teacher's?",
        "`log_softmax` of Q / scale / T for both, `.detach()` for the teacher, `.sum(-1).mean()`, and T² in front.",
    ],
    solution=_loss,
    wrong_answers={
        "no T squared": (_no_square, "factor T² is missing"),
        "mean over actions": (_mean_of_actions, "mean over actions"),
        "exchanged": (_backwards, "exchanged"),
        "no scale": (_no_scale, "Where is the scale"),
        "teacher alone": (_teacher_alone, "softened the teacher alone"),
        "sum over states": (_summed, "summed over the states"),
        "T once": (_once_the_temperature, "T stands in front once"),
        "over the batch": (_over_the_batch, "softmax over the batch"),
        "cross-entropy": (_cross_entropy, "cross-entropy"),
        "no logarithm": (_no_logarithm, "without its logarithm"),
        "not detached": (_attached, "gradient goes to the teacher"),
        "nothing to learn from": (lambda s, t, *how: _loss(s.detach(), t, *how), "no gradient reaches the student"),
    },
)


# Exercise: the double target.


def _target(
    reward: Tensor, online: Tensor, target: Tensor, terminated: Tensor, truncated: Tensor, discount: float
) -> Tensor:
    """The online network chooses the next action, the target network rates it; only a real end has no next."""
    value = target.gather(1, online.argmax(1, keepdim=True)).squeeze(1)
    return reward + discount * torch.where(terminated, torch.zeros_like(value), value)


def _plain_maximum(reward, online, target, terminated, truncated, discount):
    return _target(reward, target, target, terminated, truncated, discount)


def _roles_exchanged(reward, online, target, terminated, truncated, discount):
    return _target(reward, target, online, terminated, truncated, discount)


def _online_alone(reward, online, target, terminated, truncated, discount):
    return _target(reward, online, online, terminated, truncated, discount)


def _limit_is_end(reward, online, target, terminated, truncated, discount):
    return _target(reward, online, target, terminated | truncated, truncated, discount)


def _never_ends(reward, online, target, terminated, truncated, discount):
    return _target(reward, online, target, torch.zeros_like(terminated), truncated, discount)


def _no_discount(reward, online, target, terminated, truncated, discount):
    return _target(reward, online, target, terminated, truncated, 1.0)


def _ended_rewards_lost(reward, online, target, terminated, truncated, discount):
    return _target(reward, online, target, terminated, truncated, discount) * ~terminated


def _flags_exchanged(reward, online, target, terminated, truncated, discount):
    return _target(reward, online, target, truncated, terminated, discount)


def _check_target(answer: Callable) -> Outcome:
    generator = torch.Generator().manual_seed(5)
    online, target = torch.randn(2, 8, 3, generator=generator)
    reward = torch.rand(8, generator=generator)
    terminated = torch.tensor([False] * 5 + [True] * 2 + [False])
    truncated = torch.tensor([False] * 4 + [True, False, True, False])
    asked = (reward, online, target, terminated, truncated, 0.9)
    got = answer(*asked)
    if not isinstance(got, Tensor) or got.shape != (8,):
        return wrong(f"Return a tensor (batch,), here (8,). I got {getattr(got, 'shape', type(got).__name__)}.")
    mistakes = (
        (_plain_maximum, "The target network chooses and rates: its maximum over noisy values is too high on average. "
         "Let the online network choose."),
        (_roles_exchanged, "The roles are exchanged: the online network chooses, the target network rates."),
        (_online_alone, "The online network rates its own choice. Ask the target network what it is worth."),
        (_limit_is_end, "You take the time limit for an end. The session was cut off; it would have gone on."),
        (_never_ends, "Where the user has left nothing follows: no value of a next state there."),
        (_no_discount, "Where is the discount?"),
        (_ended_rewards_lost, "The reward of the last step still counts: only what would follow it is 0."),
        (_flags_exchanged, "You ask `truncated` whether something follows. It is `terminated` that says nothing does."),
    )  # fmt: skip
    for mistaken, message in mistakes:
        if torch.allclose(got.float(), mistaken(*asked), atol=1e-5):
            return wrong(message)
    expected = _target(*asked)
    differs = ((got.float() - expected).abs() > 1e-5).nonzero().flatten().tolist()
    if differs:
        k = differs[0]
        ends = [name for name, flags in (("terminated", terminated), ("truncated", truncated)) if flags[k]]
        kind = " and ".join(ends) or "not at an end"
        return wrong(
            f"For step {k} ({kind}) of my example I expected {float(expected[k]):.3f}, and got {float(got[k]):.3f}."
        )
    return right("One network chooses, another rates, and only a user who left ends the sum.")


exercise_target = Exercise(
    LESSON,
    "exercise-target",
    title="The double target",
    level="beginner",
    minutes=10,
    task="`online` and `target` (batch, actions) are both networks' Q-values in the next states. Return the targets "
    "(batch,) of double Q-learning from `reward`, `terminated`, `truncated` (batch,) and `discount`.",
    check=_check_target,
    hints=[
        "`online.argmax(1)` says which action. Who says what it is worth?",
        "`target.gather(1, ...)`, and mind the ends.",
    ],
    solution=_target,
    wrong_answers={
        "plain maximum": (_plain_maximum, "chooses and rates"),
        "exchanged": (_roles_exchanged, "roles are exchanged"),
        "online alone": (_online_alone, "rates its own choice"),
        "limit is an end": (_limit_is_end, "time limit for an end"),
        "never ends": (_never_ends, "user has left"),
        "no discount": (_no_discount, "Where is the discount"),
        "no last reward": (_ended_rewards_lost, "last step still counts"),
        "flags exchanged": (_flags_exchanged, "It is `terminated`"),
        "half of it": (lambda *a: _target(*a) / 2, "not at an end"),
    },
)


# Exercise: a sequence of tasks.


def _tokens(features: Tensor, embeddings: Tensor) -> Tensor:
    """A token for each task, all of one state in a row: (batch, tasks, width)."""
    return (features[:, None] + embeddings).relu()


def _without_relu(features: Tensor, embeddings: Tensor) -> Tensor:
    return features[:, None] + embeddings


def _check_tokens(answer: Callable) -> Outcome:
    generator = torch.Generator().manual_seed(7)
    features, embeddings = torch.randn(5, 4, generator=generator), torch.randn(3, 4, generator=generator)
    got = answer(features, embeddings)
    if not isinstance(got, Tensor):
        return wrong(f"Return a tensor. I got {type(got).__name__}.")
    if got.shape == (5, 1, 4):
        return wrong("A sequence of length 1: there is nothing to look at but itself, and its weight is always 1.")
    if got.shape == (3, 5, 4):
        return wrong("The states are the sequence here, so that users look at each other. Put the tasks there.")
    if got.shape != (5, 3, 4):
        return wrong(f"Return (batch, tasks, width), here (5, 3, 4). I got {tuple(got.shape)}.")
    if torch.allclose(got, features[:, None].expand(5, 3, 4)) or torch.allclose(
        got, features[:, None].expand(5, 3, 4).relu()
    ):
        return wrong("Three copies of one vector: all tasks are alike, all weights a third. Add the embeddings.")
    if torch.allclose(got, _without_relu(features, embeddings)):
        return wrong("The ReLU is missing: a sum of a state's part and a task's part cannot depend on both together.")
    if torch.allclose(got, embeddings.expand(5, 3, 4).relu()):
        return wrong("The state is not in your tokens.")
    if not torch.allclose(got.float(), _tokens(features, embeddings), atol=1e-6):
        return wrong("The shape is right, the values are not: features plus the task's embedding, then ReLU.")
    return right("Each state has a row of three tokens, one a task, and they differ.")


exercise_tokens = Exercise(
    LESSON,
    "exercise-tokens",
    title="A sequence of tasks",
    level="beginner",
    minutes=5,
    task="`features` (batch, width) is what the trunk says of each state, `embeddings` (tasks, width) has a row for "
    "each task. Return the tokens (batch, tasks, width) that attention runs over: their sum, through a ReLU.",
    check=_check_tokens,
    hints=["`features[:, None]` has shape (batch, 1, width). What does adding (tasks, width) make of it?"],
    solution=_tokens,
    wrong_answers={
        "length 1": (lambda f, e: (f + e.mean(0))[:, None].relu(), "sequence of length 1"),
        "states as the sequence": (lambda f, e: (f + e[:, None]).relu(), "users look at each other"),
        "copies": (lambda f, e: f[:, None].expand(-1, len(e), -1), "Three copies"),
        "no ReLU": (_without_relu, "ReLU is missing"),
        "no state": (lambda f, e: e.expand(len(f), *e.shape).relu(), "state is not in"),
    },
)


_WORKED = """
Knowledge distillation trains a small network, the student, on what large or specialised networks, its teachers, answer.
In multi-task learning there is a teacher for each task, and one student for all of them.

What is handed over is more than a label. A teacher's Q-values say how good every action is, not only which is best.
Divided by a scale and a temperature T and put through a softmax they are probabilities, and the student is trained on
the divergence of its own from these. A low temperature leaves the best action alone, a high one all differences of
Q-values, good and bad actions alike. In between, the better an action, the more it counts. Here a low one was slow. The
factor T² keeps the gradient of one size, so that the teacher is still heard at a high temperature beside another loss.

No rewards are needed, no actions taken, and no target moves: any state will do, and all teachers can answer it. The
student of this lesson learned fast, presumably for that reason. It kept at least 95 % of its teachers' return over
random with less than a third of their parameters together, and was far ahead of the same network from rewards after as
many gradient steps. Dealt to other states, the same answers taught it nothing.

What it does not do: the student learns what its teachers know. What they did not find out, it does not find out, and
where their mistakes are systematic, it learns those too. And somebody has to train the teachers first: given time, the
same network got as far from rewards.

Our advice, not measured here: distil where good single-task networks exist and serving all of them is too dear, or
where training from rewards on all tasks at once is unstable. Train from rewards where the teachers would have to be
trained for the student alone.
"""


def study_question(evidence_from: Explorer) -> StudyQuestion:
    """The lesson's study question, with the explorer it takes its evidence from."""
    return StudyQuestion(
        LESSON,
        "study",
        level="beginner",
        question="What is knowledge distillation in multi-task learning? Say who teaches whom, what is handed over, "
        "what the temperature does, what it saves, and where it ends.",
        evidence_prompt="In the first explorer, train at T = 0.03, 1 and 30, and once with ω = 0, which is rewards "
        "alone. Note what the students keep, and compare the probabilities.",
        checks=[
            Quiz(
                LESSON,
                "study/check-1",
                "What does a teacher's answer to one state tell the student beyond the best action?",
                {
                    "Which reward the user would give if that action were taken": "It is the teacher's expectation, "
                    "not a reward. Distillation works where no reward was seen.",
                    "How good every other action is, compared with the best one": "This is why one answer teaches more "
                    "than one label, and why the temperature must not be too low.",
                    "Which task the state was taken from, and how long ago it was": "The state does not say it, and "
                    "every teacher answers states of every task here.",
                },
                "How good every other action is, compared with the best one",
            ),
            Quiz(
                LESSON,
                "study/check-2",
                "A loss is a weighted sum of TD and distillation, without T². You raise T from 10 to 100. What "
                "happens?",
                {
                    "Little: the weights of the sum say how much each of the two counts": "They do only as long as the "
                    "two gradients keep their size, and one of them does not.",
                    "The student learns harder targets, as its probabilities get sharper": "A high temperature makes "
                    "them softer, not sharper.",
                    "The distillation's gradient falls about a hundredfold: rewards decide": "It falls as 1/T². With "
                    "the factor it keeps its size.",
                },
                "The distillation's gradient falls about a hundredfold: rewards decide",
            ),
            Quiz(
                LESSON,
                "study/check-3",
                "One teacher never found out that its users like sport. What does the student do there?",
                {
                    "It does as its teacher does: it has learned from nothing else": "A student distilled alone knows "
                    "what its teachers know. Mixing in rewards, ω below 1, is one way out.",
                    "It finds out by itself, as it is trained on far more states": "More states bring more of the same "
                    "teacher's answers.",
                    "It asks the other tasks, for attention lets tasks look at each other": "Attention mixes what "
                    "tasks' tokens hold. What to answer for a task was still learned from its teacher.",
                },
                "It does as its teacher does: it has learned from nothing else",
            ),
        ],
        points=[
            KeyPoint(
                "a student learns from teachers' answers",
                (r"teacher[^.]*student", r"student[^.]*teacher"),
                "Who teaches whom is the whole arrangement.",
            ),
            KeyPoint(
                "a teacher for each task, one student for all",
                (
                    r"(each|every|per) task",
                    r"one (student|network)[^.]{0,30}(all|several|many)",
                    r"(all|several|many) tasks",
                ),
                "That is what makes it multi-task.",
            ),
            KeyPoint(
                "all actions' values, not labels alone",
                (
                    r"soft\w*",
                    r"probabilit\w*",
                    r"q-?values?",
                    r"(all|every|other) actions?",
                    r"more than (a |one |the )?label",
                ),
                "One answer says how every action compares.",
            ),
            KeyPoint(
                "what the temperature does",
                (r"temperature[^.]*(low|high|soft|sharp|middle)", r"(low|high|middl)\w*[^.]*temperature"),
                "Low leaves the best action alone, high all differences alike.",
            ),
            KeyPoint(
                "fewer parameters, or fewer steps",
                (
                    r"\b(small\w*|compress\w*|compact)\b",
                    r"(fewer|less|third|half)[^.]{0,30}(parameters|steps|memory)",
                    r"\bfast\w*|quick\w*",
                ),
                "It is what distillation is bought for.",
            ),
            KeyPoint(
                "its end: what the teachers do not know",
                (
                    r"mistakes?|errors?",
                    r"(no|not|never|hardly) (much )?better than",
                    r"bound\w*|limit\w*|ceiling",
                    r"teachers?[^.]{0,20}(do|does|did) not (know|find)",
                ),
                "The student learns their mistakes too.",
            ),
        ],
        worked=_WORKED,
        start="A student …",
        evidence_from=evidence_from,
    )
