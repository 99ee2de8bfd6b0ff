"""What the lesson asks: a prediction, three exercises, and the study question."""

from collections.abc import Callable

import torch
from torch import Tensor

from recmtl_lessons.lessons.hierarchical.activities import LESSON
from recmtl_lessons.models import semi_markov_target
from recmtl_lessons.teaching import Explorer
from recmtl_lessons.teaching.exercise import Exercise, Outcome, right, wrong
from recmtl_lessons.teaching.quiz import Predict, Quiz
from recmtl_lessons.teaching.study import KeyPoint, StudyQuestion

prediction = Predict(
    LESSON,
    "predict",
    "Q-learning keeps a table with one value for each state and action, here 6 times 2 numbers. It sees where it is "
    "now, and takes 25,600 steps; at first all actions are drawn by chance, in the end one in twenty. Twelve such "
    "tables are judged every now and then. What do they earn, on average over the second half of the training? (The "
    "best is 0.208.)",
    {
        "0.208: with twelve numbers and so many steps, every table is right": "If what it sees were all that matters, "
        "yes. But the end pays 1 or 0.01 by where one has been, and that is not in the table.",
        "About 0.2, a little less because it explores now and then": "The tables are judged without exploring. What "
        "keeps them low is no step by chance, but that their numbers stand for two different things.",
        "About 0.1: they flip to and fro until the end is near": "Going left from s2 is worth 1 after a visit to s6, "
        "0.01 before. The table holds one number for both, their mean, and going right comes to the same.",
        "0: the steps to the right never work often enough to arrive": "Whoever always goes right arrives in one "
        "episode of five. And going left pays 0.01 at least.",
    },
)
HALF = tuple(prediction.choices)[2]


# Exercise: what a goal was worth.


def _goal_return(rewards: Tensor, value_after: Tensor, terminated: Tensor, discount: float) -> Tensor:
    """All rewards of the goal, each a step later, and behind them the value of where it led."""
    k = len(rewards)
    powers = discount ** torch.arange(k)
    return (powers * rewards).sum() + discount**k * value_after * ~terminated


def _check_target(answer: Callable) -> Outcome:
    discount, rewards, value = 0.9, torch.tensor([0.0, 2.0, 0.0, 1.0]), torch.tensor(5.0)
    never, over = torch.tensor(False), torch.tensor(True)
    got = answer(rewards.clone(), value.clone(), never, discount)
    got_over = answer(rewards.clone(), value.clone(), over, discount)
    if not all(isinstance(g, Tensor) and g.numel() == 1 for g in (got, got_over)):
        return wrong("Return one number, as a tensor.")
    got, got_over, k = float(got), float(got_over), len(rewards)
    paid = float((discount ** torch.arange(k) * rewards).sum())
    mistakes = (
        (rewards.sum() + discount**k * value, "You add up the rewards undiscounted. Here each step counts a "
         "factor of γ less, so that long goals do not look better than they are."),
        (paid + discount * value, "A goal of four steps brought you to that value four steps later, not one: γ to the "
         "power of k."),
        (rewards.sum() + discount * value, "You add up the rewards undiscounted and discount the value once: the "
         "target of Kulkarni et al. Here each step counts a factor of γ less, so that long goals do not look better "
         "than they are."),
        (paid + value, "The value behind the goal lies in the future: discount it, by γ to the power of k."),
        (paid + discount ** (k - 1) * value, "One power too few: the last reward counts γ to the power of k − 1, and "
         "what follows it k."),
        (torch.tensor(paid), "What comes after the goal is missing: the session goes on."),
        (rewards[0] + discount * value, "You look one step ahead. The goal lasted four, and all their rewards are its "
         "doing."),
        (rewards.sum() + value, "Nothing is discounted: reward number j counts γ to the power of j, the value γ to the "
         "power of k."),
        (discount * paid + discount ** (k + 1) * value, "One power too many: the first reward comes in this very step, "
         "and is not discounted."),
        (paid + discount ** (k + 1) * value, "One power too many: behind k steps the value counts γ to the power k."),
    )  # fmt: skip
    for mistaken, message in mistakes:
        if abs(got - float(mistaken)) < 1e-5:
            return wrong(message)
    if abs(got_over - (paid + discount**k * float(value))) < 1e-5:
        return wrong("After an end nothing comes: where `terminated`, the value must not count.")
    expected = [
        float(semi_markov_target(torch.tensor([paid]), torch.tensor([k]), value[None], flag[None], discount))
        for flag in (never, over)
    ]
    if abs(got - expected[0]) > 1e-5 or abs(got_over - expected[1]) > 1e-5:
        return wrong(
            f"For rewards 0, 2, 0, 1 and a value of 5 I expected {expected[0]:.3f}, and {expected[1]:.3f} at an end. "
            f"I got {got:.3f} and {got_over:.3f}."
        )
    return right("This is the semi-Markov target: for the meta-controller a goal is one long step.")


exercise_target = Exercise(
    LESSON,
    "exercise-target",
    title="What a goal was worth",
    level="intermediate",
    minutes=10,
    task="A goal lasted k steps, with `rewards` (k,) of the environment. `value_after` is the meta-controller's value "
    "of the state it led to, `terminated` whether the session ended there, `discount` γ a step. Return the target for "
    "the meta-controller, a tensor with one number.",
    check=_check_target,
    hints=["Reward number j, counted from 0, is γ to the power of j.", "Behind k steps, the value counts γ to the "
           "power of k, and at an end not at all."],
    solution=_goal_return,
    wrong_answers={
        "undiscounted": (lambda r, v, t, g: r.sum() + g ** len(r) * v * ~t, "undiscounted. Here"),
        "as in the paper": (lambda r, v, t, g: r.sum() + g * v * ~t, "target of Kulkarni"),
        "one power": (lambda r, v, t, g: _goal_return(r, 0 * v, t, g) + g * v * ~t, "four steps later"),
        "no power": (lambda r, v, t, g: _goal_return(r, 0 * v, t, g) + v * ~t, "discount it"),
        "a power too few": (lambda r, v, t, g: _goal_return(r, 0 * v, t, g) + g ** (len(r) - 1) * v * ~t, "too few"),
        "no value": (lambda r, v, t, g: _goal_return(r, 0 * v, t, g), "goes on"),
        "one step": (lambda r, v, t, g: r[0] + g * v * ~t, "one step ahead"),
        "no end": (lambda r, v, t, g: _goal_return(r, v, torch.tensor(False), g), "After an end"),
        "nothing discounted": (lambda r, v, t, g: r.sum() + v * ~t, "Nothing is discounted"),
        "all a step late": (lambda r, v, t, g: g * _goal_return(r, v, t, g), "in this very step"),
        "a power too many": (lambda r, v, t, g: _goal_return(r, g * v, t, g), "One power too many"),
        "backwards": (lambda r, v, t, g: _goal_return(r.flip(0), v, t, g), "I expected"),
    },
)  # fmt: skip


# Exercise: to each row its own controller.


def _own_rows(answers: Tensor, goals: Tensor) -> Tensor:
    """Row b of the answer comes from controller goals[b]."""
    return answers[goals, torch.arange(len(goals))]


def _check_rows(answer: Callable) -> Outcome:
    generator = torch.Generator().manual_seed(5)
    answers = torch.randn(3, 4, 2, generator=generator)  # goals, rows, actions
    goals = torch.tensor([2, 0, 0, 1])
    got = answer(answers.clone(), goals.clone())
    if not isinstance(got, Tensor):
        return wrong(f"Return a tensor (rows, actions). I got {type(got).__name__}.")
    if got.shape == (4, 4, 2):
        return wrong("`answers[goals]` takes, for each row, a controller's answers to all rows: (4, 4, 2). Take its "
                     "answer to that row alone.")  # fmt: skip
    if got.shape != (4, 2):
        return wrong(f"Four rows of two logits, (4, 2), were expected. I got {tuple(got.shape)}.")
    expected = _own_rows(answers, goals)
    mistakes = (
        (answers[goals[0]], "All rows got the controller of the first row's goal. Goals differ from row to row."),
        (answers.mean(0), "You mix all controllers. One acts, the goal's."),
        (answers.amax(0), "You take the largest of all controllers. The goal says which one acts."),
        (answers.sum(0) * 0 + answers[0], "All rows got controller 0."),
        (answers[goals, goals], "The second index is the row's number, not its goal."),
    )
    for mistaken, message in mistakes:
        if torch.allclose(got.float(), mistaken, atol=1e-6):
            return wrong(message)
    if not torch.allclose(got.float(), expected, atol=1e-6):
        return wrong("The shape is right, the rows are not: row b belongs to controller `goals[b]`.")
    return right("Every row was answered by its own controller, whatever the batch.")


exercise_rows = Exercise(
    LESSON,
    "exercise-rows",
    title="To each row its own controller",
    level="beginner",
    minutes=5,
    task="`answers` (goals, rows, actions) are the logits of every controller for every row, `goals` (rows,) each "
    "row's goal. Return the logits (rows, actions) of each row's own controller. It can be done in one line.",
    check=_check_rows,
    hints=["A tensor can be indexed with two tensors of row numbers at once.", "`answers[goals, rows]`, where `rows` "
           "counts from 0."],
    solution=_own_rows,
    wrong_answers={
        "all rows of it": (lambda a, g: a[g], "to all rows"),
        "the first goal": (lambda a, g: a[g[0]], "first row's goal"),
        "the mean": (lambda a, g: a.mean(0), "mix all"),
        "the largest": (lambda a, g: a.amax(0), "the largest"),
        "controller 0": (lambda a, g: a[0], "controller 0"),
        "goal twice": (lambda a, g: a[g, g], "row's number"),
        "shuffled": (lambda a, g: _own_rows(a, g).flip(0), "the rows are not"),
    },
)  # fmt: skip


# Exercise: paid for progress.


def _progress(before: Tensor, after: Tensor, paid: Tensor, goal: Tensor) -> Tensor:
    """Clicks in the goal's category that a step added, or undid; a reward has used up what it took."""
    rows = torch.arange(len(goal))
    return after[rows, goal] + paid - before[rows, goal]


def _check_progress(answer: Callable) -> Outcome:
    before = torch.tensor([[2.0, 0, 0], [2, 0, 0], [3, 0, 0], [0, 0, 1], [0, 2, 0]])
    after = torch.tensor([[3.0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1], [0, 3, 0]])
    paid, goal = torch.tensor([0.0, 0, 4, 0, 0]), torch.tensor([0, 0, 0, 2, 0])
    got = answer(before.clone(), after.clone(), paid.clone(), goal.clone())
    if not isinstance(got, Tensor) or got.shape != (5,):
        return wrong(f"Return one number a row, (5,). I got {tuple(getattr(got, 'shape', ())) or type(got).__name__}.")
    rows, change = torch.arange(5), after - before
    mistakes = (
        (change[rows, goal], "Row 2 was paid its reward of 4, and its clicks began anew: for you that is a loss of 3. "
         "Add what was paid."),
        (_progress(before, after, paid, goal).clamp(min=0), "What a click elsewhere undoes must cost something, or the "
         "controller will undo it whenever that is easier."),
        (change.sum(1) + paid, "You count progress in any category. The controller works for its goal alone."),
        (-change[rows, goal] + paid, "The sign: after minus before."),
        (after[rows, goal] + paid, "That is where it stands, paid anew at every step. Progress is the difference."),
        (torch.where(paid > 0, paid, change[rows, goal]), "Row 2 went on by one click, from 3 to the 4 that were paid: "
         "its progress is 1. The other 3 were paid for when they came."),
        (change[rows, goal] + (paid > 0), "Row 2 stood at 3 and was paid for its fourth click. What was paid says how "
         "far it came: 4, not 1."),
        (paid, "That is the environment's reward. It comes once in many clicks; the controller needs to hear of each."),
    )  # fmt: skip
    for mistaken, message in mistakes:
        if torch.allclose(got.float(), mistaken, atol=1e-6):
            return wrong(message)
    expected = _progress(before, after, paid, goal)
    if not torch.allclose(got.float(), expected, atol=1e-6):
        return wrong(f"For my five rows I expected {expected.tolist()}, and got {got.tolist()}.")
    return right("Added up over a goal's steps it is what the reward needs, and what is undone costs what it paid.")


exercise_progress = Exercise(
    LESSON,
    "exercise-progress",
    title="Paid for progress",
    level="intermediate",
    minutes=10,
    task="A reward of n is paid for the n-th click in one category, and the count goes back to 0; a click elsewhere "
    "makes it begin anew as well. "
    "`before` and `after` (rows, categories) are the clicks counted before and after a step, `paid` (rows,) the reward "
    "that the step brought for the goal, `goal` (rows,) its category. Return the intrinsic reward (rows,), the "
    "progress: 1 for a click in the goal's category, less the clicks there that a click elsewhere undid.",
    check=_check_progress,
    hints=["After minus before, in the goal's category alone.", "When a reward is paid the count goes back to 0, and "
           "yet nothing is lost."],
    solution=_progress,
    wrong_answers={
        "a reward looks like a loss": (lambda b, a, p, g: (a - b)[torch.arange(len(g)), g], "what was paid"),
        "no losses": (lambda b, a, p, g: _progress(b, a, p, g).clamp(min=0), "undoes"),
        "any category": (lambda b, a, p, g: (a - b).sum(1) + p, "any category"),
        "sign": (lambda b, a, p, g: -(a - b)[torch.arange(len(g)), g] + p, "The sign"),
        "where it stands": (lambda b, a, p, g: a[torch.arange(len(g)), g] + p, "the difference"),
        "the reward itself": (lambda b, a, p, g: p, "environment's reward"),
        "all at once": (lambda b, a, p, g: torch.where(p > 0, p, (a - b)[torch.arange(len(g)), g]), "by one click"),
        "one for a reward": (lambda b, a, p, g: (a - b)[torch.arange(len(g)), g] + (p > 0), "its fourth click"),
        "twice paid": (lambda b, a, p, g: _progress(b, a, 2 * p, g), "I expected"),
    },
)  # fmt: skip


# The study question.

_WORKED = """
A hierarchical agent splits one decision into two, on two clocks.

Above, a meta-controller looks at the state and chooses a goal: here a category to win a user for, or a state to reach.
The goal is kept for several steps, until it is reached, given up, or the session is over. Below, the goal's controller
chooses an action at every step. In our model each goal has a controller of its own, and each row of a batch is answered
by its own goal's.

Each level has its own reward. The controller is paid, at every step, for coming nearer to its goal: intrinsic reward,
which we invent. The meta-controller is paid what the environment pays, over all steps of the goal together: discounted
step by step, and behind them the discounted value of the state that the goal led to. To it a goal is one long step, a
semi-Markov decision. It learns from the steps in which a goal was chosen, and from no other, and it must learn from the
goal that was really followed.

When does it help? On the six-state chain, what the end pays depends on where one has been. A flat table that sees the
place alone has one number for two different situations; all its numbers tend to the same, so that it flips to and fro
as long as it explores much, and it earned about four tenths of the possible 0.208 in the second half of its training.
Two levels, seeing no more, came near it: a goal is also a memory, since while one still walks to s6 one has not been
there. So did a table that saw the history, one that stopped exploring half way, and a flat policy that bootstrapped
less. In sessions where eight clicks in one category bring
one reward, two levels earned more than a flat policy from equally few steps, and more than with goals drawn by chance;
where every click pays, they were behind.

And what it rests on: somebody has to design goals and intrinsic rewards. A flat policy that was paid for the same
progress did at least as well. Paid for something else than what the reward needs, controllers do something else: a
hierarchy does what its goals say.
"""


def study_question(evidence_from: Explorer) -> StudyQuestion:
    """The lesson's study question, with the explorer it takes its evidence from."""
    return StudyQuestion(
        LESSON,
        "study",
        level="beginner",
        question="How does a hierarchical agent decide at several levels? Say who decides what, and when; what each "
        "level is paid; and when that helps.",
        evidence_prompt="In the training explorer, let a reward take 8 clicks, and 1, with goals of 1 step and of 20. "
        "Note for each which of the two is ahead.",
        checks=[
            Quiz(
                LESSON,
                "study/check-1",
                "A goal was kept for five steps. From which of them does the meta-controller's policy learn?",
                {
                    "From all five: in each of them its goal was followed": "In four of them it decided nothing. "
                    "Counting them would make long goals weigh more than short ones.",
                    "From the first: there it chose, and what followed is its return": "One decision, one row: "
                    "the rewards of all five steps, and the value behind them, belong to it.",
                    "From the last: only there is it known how the goal went": "What is learned is the choice, in the "
                    "state in which it was made. How it went is the return.",
                },
                "From the first: there it chose, and what followed is its return",
            ),
            Quiz(
                LESSON,
                "study/check-2",
                "The controllers' intrinsic reward is added to the meta-controller's return. What happens?",
                {
                    "It prefers goals that are easily reached, whatever they are good for": "It would be paid for "
                    "them. Intrinsic reward is a means, and belongs to the level below.",
                    "It learns faster, as its reward is no longer so rare": "It learns something else faster. What it "
                    "should want is what the environment pays.",
                    "Nothing, as reaching goals and earning rewards are the same": "They are when goals are well "
                    "chosen. That is what the meta-controller is there to find out.",
                },
                "It prefers goals that are easily reached, whatever they are good for",
            ),
            Quiz(
                LESSON,
                "study/check-3",
                "A goal of k steps led to a state of value V. How much does V count for the choice of that goal?",
                {
                    "γ V, for the meta-controller took one step": "One decision, and k steps of the session. Then "
                    "long goals would look cheaper than they are.",
                    "V, because a goal is finished before anything else begins": "What lies k steps ahead is "
                    "discounted k times, whoever walked there.",
                    "γ to the power of k times V, and nothing where the session ended": "The same discount a step as "
                    "in a flat policy, so that both mean the same by a value.",
                },
                "γ to the power of k times V, and nothing where the session ended",
            ),
        ],
        points=[
            KeyPoint(
                "a level above chooses goals",
                (
                    r"meta[- ]?controller",
                    r"(choos|chos|pick|set|select)\w*[^.;]{0,40}goals?",
                    r"upper|higher|top level",
                ),
                "A meta-controller chooses a goal.",
            ),
            KeyPoint(
                "a level below chooses actions for the goal",
                (
                    r"controllers?\b[^.;]{0,60}actions?",
                    r"(lower|below|bottom)\b",
                    r"actions?[^.;]{0,60}(goal|controller)",
                ),
                "A controller chooses actions, given the goal.",
            ),
            KeyPoint(
                "a goal lasts several steps",
                (
                    r"(several|many|few|k) (time ?)?steps",
                    r"(keeps?|kept|holds?|held|lasts?|until)\b[^.;]{0,60}(reach|goal|step|over|given up)",
                    r"slow\w*|longer|two clocks|time ?scale",
                ),
                "The levels decide at different times.",
            ),
            KeyPoint(
                "intrinsic reward below",
                (r"intrinsic", r"(paid|reward\w*)[^.;]{0,60}(progress|near|reach\w*|closer)"),
                "Controllers are paid for coming nearer to their goal.",
            ),
            KeyPoint(
                "the environment's reward above",
                (
                    r"(environment|real|actual|extrinsic)\w*('s)? (reward|return)s?",
                    r"semi[- ]?markov|smdp",
                    r"(sum|all|total)\b[^.;]{0,40}rewards?",
                ),
                "The meta-controller gets the discounted rewards of the goal's steps, and the value behind them.",
            ),
            KeyPoint(
                "it helps where rewards come late or memory is needed",
                (r"\blate\b|delay\w*|sparse|rare", r"memor\w*|history|remember\w*", r"long[- ]term|far ahead"),
                "And not where each action is paid at once.",
            ),
            KeyPoint(
                "it rests on well chosen goals",
                (
                    r"(well|badly|wrong|good|right)\b[^.;]{0,20}(chosen|goals?|reward)",
                    r"design\w*",
                    r"misalign\w*|undo\w*|undid|easy goals?",
                ),
                "Controllers do what they are paid for, whatever it is good for.",
            ),
        ],
        worked=_WORKED,
        start="The meta-controller …",
        evidence_from=evidence_from,
    )
