"""What the lesson asks: a prediction, three exercises, and two study questions."""

from collections.abc import Callable

import torch
from torch import Tensor

from recmtl_lessons.lessons.domain_attention.activities import LESSON
from recmtl_lessons.teaching import Explorer
from recmtl_lessons.teaching.exercise import Exercise, Outcome, right, wrong
from recmtl_lessons.teaching.quiz import Predict, Quiz
from recmtl_lessons.teaching.study import KeyPoint, StudyQuestion

prediction = Predict(
    LESSON,
    "predict",
    "Games is a mirror of the other shops: its relatedness to each of them is −0.8; the others are related at 0.6. "
    "Somebody is new to books. How much of the weight will attention give to what they did in games?",
    {
        "More than another shop": "A mirror does tell more: 0.8 is further from 0 than 0.6. But a weight from a "
        "softmax cannot be negative, and all histories go through one encoder, so nothing can turn the mirror's image "
        "around. Mixed in as it is, it pulls the wrong way.",
        "As much as another shop": "Nobody tells the network how the shops are related, that is true. It finds out, "
        "because a wrong weight costs it log loss on every click.",
        "As much as a shop that tells nothing": "A shop that tells nothing adds noise. A mirror adds noise and an "
        "error on top, so it is worth even less in a sum whose weights cannot be negative.",
        "Less than a shop that tells nothing": "A shop that tells nothing adds noise. A mirror pulls the wrong way. "
        "With weights that cannot be negative, and one encoder for all, it can only be silenced.",
    },
)
SILENCED = tuple(prediction.choices)[3]


# Exercise: the masked softmax.


def _masked_weights(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the domains that the mask leaves."""
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=1)


def _check_softmax(answer: Callable) -> Outcome:
    scores = torch.tensor([[2.0, 0.5, -1.0], [0.3, 4.0, 0.1], [-1.0, -2.0, -0.5]])
    mask = torch.tensor([[True, True, False], [True, False, True], [True, True, True]])
    got = answer(scores.clone(), mask.clone())
    if not isinstance(got, Tensor) or got.shape != scores.shape:
        return wrong(f"I expected a tensor (3, 3), and got {getattr(got, 'shape', type(got).__name__)}.")
    if got.isnan().any():
        return wrong("There is NaN in your weights. 0 times infinity is NaN: do not multiply a mask by infinity; use "
                     "`masked_fill` or `torch.where`.")  # fmt: skip
    soft, kept = scores.softmax(1), mask.float()
    mistakes = (
        (soft, "You did not use the mask: a shop without any history still gets weight."),
        (soft * kept, "You mask after the softmax: the masked shops have already taken their share, and your rows sum "
         f"to {float((soft * kept)[0].sum()):.2f}, {float((soft * kept)[1].sum()):.2f} and 1."),
        ((scores * kept).softmax(1), "You set masked scores to 0. The exponential of 0 is 1, not 0: a masked shop "
         "still gets weight, sometimes the largest."),
        (scores.masked_fill(mask, -torch.inf)[:2].softmax(1), "Your mask is upside down: True is where there *is* a "
         "history."),
        (scores.masked_fill(~mask, -torch.inf).softmax(0), "Your softmax runs over the users (dim=0): a user's weights "
         "would depend on who else is in the batch. Each row must sum to 1."),
        (scores.exp() * kept, "These are exponentials without their sum "
         "below: rows must sum to 1."),
    )  # fmt: skip
    for mistaken, message in mistakes:
        if torch.allclose(got[: len(mistaken)], mistaken, atol=1e-6):
            return wrong(message)
    expected = _masked_weights(scores, mask)
    if got[~mask].abs().max() > 0:
        return wrong(f"A masked shop gets a weight of {float(got[~mask].abs().max()):.3g}; it must be exactly 0.")
    if not torch.allclose(got, expected, atol=1e-6):
        return wrong(f"For my example I expected {_rounded(expected)}, and got {_rounded(got)}.")
    return right("Masked before the softmax: the others share the whole weight, and the masked ones get exactly 0.")


def _rounded(values: Tensor) -> list:
    return [[round(x, 2) for x in row] for row in values.tolist()]


def _upside_down(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask, -torch.inf).nan_to_num(neginf=-1e9).softmax(1)


exercise_softmax = Exercise(
    LESSON,
    "exercise-softmax",
    title="The masked softmax",
    level="beginner",
    minutes=10,
    task="`scores` (n, D) holds a score for each user and shop, `mask` (n, D) is True where the user has a history. "
    "Return weights (n, D): rows sum to 1, and where the mask is False the weight is exactly 0. Every row has at least "
    "one True.",
    check=_check_softmax,
    hints=[
        "Which score has an exponential of 0?",
        "`scores.masked_fill(~mask, ...)`, and then a softmax. Over which dimension do the weights of one user lie?",
    ],
    solution=_masked_weights,
    wrong_answers={
        "no mask": (lambda s, m: s.softmax(1), "did not use the mask"),
        "mask after": (lambda s, m: s.softmax(1) * m, "after the softmax"),
        "zero for minus infinity": (lambda s, m: s.masked_fill(~m, 0.0).softmax(1), "masked scores to 0"),
        "scores times mask": (lambda s, m: (s * m).softmax(1), "masked scores to 0"),
        "over the users": (lambda s, m: s.masked_fill(~m, -torch.inf).softmax(0), "over the users"),
        "infinity times mask": (lambda s, m: (s - torch.inf * ~m).softmax(1), "NaN"),
        "upside down": (_upside_down, "upside down"),
        "no sum": (lambda s, m: s.exp() * m, "without their sum"),
        "a small number": (lambda s, m: s.masked_fill(~m, -5.0).softmax(1), "exactly 0"),
    },
)


# Exercise: rows aligned by user.


def _align(users: Tensor, ids: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """The features of these users in this order, zeros where there are none, and where there are any."""
    same = users[:, None] == ids[None, :]  # (n, m)
    known = same.any(dim=1)
    return same.float() @ features, known


def _check_align(answer: Callable) -> Outcome:
    users = torch.tensor([31, 4, 17, 8])
    ids = torch.tensor([8, 31, 50, 4, 2])
    features = torch.tensor([[8.0, 0.8], [31.0, 3.1], [50.0, 5.0], [4.0, 0.4], [2.0, 0.2]])
    got = answer(users.clone(), ids.clone(), features.clone())
    if not isinstance(got, tuple) or len(got) != 2 or not all(isinstance(part, Tensor) for part in got):
        return wrong("Return two tensors: the aligned features (n, F), and where a user is known, (n,).")
    aligned, known = got
    if aligned.shape != (4, 2) or known.shape != (4,):
        return wrong(f"I expected shapes (4, 2) and (4,), and got {tuple(aligned.shape)} and {tuple(known.shape)}.")
    if known.dtype != torch.bool:
        return wrong(f"Where a user is known must be a bool tensor; yours is {known.dtype}.")
    expected, there = _align(users, ids, features)
    if torch.equal(known, ~there):
        return wrong("Your second answer is upside down: True is where the user *is* known.")
    if torch.allclose(aligned, features[:4]):
        return wrong("You took the table's rows as they stand. Row 0 is user 8 there and user 31 in the batch: each "
                     "user would be judged by somebody else's history.")  # fmt: skip
    if torch.allclose(aligned[there], expected[there].flip(0)) or torch.allclose(
        aligned[: int(there.sum())], features[torch.isin(ids, users)]
    ):
        return wrong("You kept the right users in the table's order. Row k must be `users[k]`.")
    if bool(known.all()):
        return wrong("You say that all users are known. User 17 has no row in this table: their mask must be False.")
    if not torch.equal(known, there):
        return wrong(f"Known should be {there.tolist()}, and you have {known.tolist()}.")
    if not torch.allclose(aligned[there], expected[there]):
        return wrong(f"Row by row I expected users {users.tolist()}; your features are {aligned.tolist()}.")
    if aligned[~there].abs().max() > 0:
        return wrong("User 17 has no row, and yet got features: those of somebody else. Fill with zeros.")
    return right("Row k is user k, and who is missing is said to be missing.")


def _by_search(users: Tensor, ids: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    order = ids.argsort()
    place = torch.searchsorted(ids[order], users).clamp(max=len(ids) - 1)
    return features[order][place], torch.isin(users, ids)


def _table_order(users: Tensor, ids: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    kept = features[torch.isin(ids, users)]
    return torch.cat([kept, torch.zeros(len(users) - len(kept), features.shape[1])]), torch.isin(users, ids)


exercise_align = Exercise(
    LESSON,
    "exercise-align",
    title="Rows aligned by user",
    level="intermediate",
    minutes=15,
    task="A shop's table has its own order: `ids` (m,) are user numbers, `features` (m, F) their rows. The batch asks "
    "for `users` (n,), some of whom are not in the table. Return the features of these users in this order, (n, F), "
    "with zeros for those who are missing, and a bool tensor (n,), True where the user is in the table.",
    check=_check_align,
    hints=[
        "`users[:, None] == ids[None, :]` is a table (n, m) of who is who.",
        "A row of that table without any True is a user who is missing. A row with one True picks a row of `features`: "
        "as a matrix product, for instance.",
    ],
    solution=_align,
    wrong_answers={
        "as they stand": (lambda u, i, f: (f[: len(u)], torch.isin(u, i)), "as they stand"),
        "the table's order": (_table_order, "in the table's order"),
        "somebody else": (_by_search, "somebody else"),
        "all known": (
            lambda u, i, f: (_align(u, i, f)[0], torch.ones(len(u), dtype=torch.bool)),
            "all users are known",
        ),
        "upside down": (lambda u, i, f: (_align(u, i, f)[0], ~torch.isin(u, i)), "upside down"),
        "a float mask": (lambda u, i, f: (_align(u, i, f)[0], torch.isin(u, i).float()), "bool tensor"),
    },
)


# Exercise: what a domain contributes.


def _contributions(weights: Tensor, values: Tensor) -> Tensor:
    """Each domain's share of the lengths that are added up: (n, D)."""
    length = weights * values.norm(dim=2)
    return length / length.sum(dim=1, keepdim=True)


def _check_contribution(answer: Callable) -> Outcome:
    weights = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    values = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]], [[0.0, 2.0], [1.0, 0.0], [-3.0, 4.0]]])
    got = answer(weights.clone(), values.clone())
    if not isinstance(got, Tensor) or got.shape != weights.shape:
        return wrong(f"I expected a tensor (2, 3), and got {getattr(got, 'shape', type(got).__name__)}.")
    norm = values.norm(dim=2)
    length = weights * norm

    def share(x: Tensor) -> Tensor:
        return x / x.sum(dim=1, keepdim=True)

    mistakes = (
        (weights, "These are the weights alone. A large weight on a short value moves little: here the second shop's "
         "value is short, and the third's is long."),
        (share(norm), "These are the lengths of the values alone. A long value with a small weight moves little."),
        (length, "These are weight times length, but not yet shares: divide each row by its sum."),
        (share(weights * values.sum(dim=2)), "You add the numbers of a value instead of taking its length: they may "
         "cancel, and be negative."),
        (share(weights * norm.square()), "You forgot the square root of the length: long values count too much."),
        (length / length.sum(), "Your shares sum to 1 over the whole batch. Each user has contributions of their own."),
    )  # fmt: skip
    for mistaken, message in mistakes:
        if torch.allclose(got, mistaken, atol=1e-6):
            return wrong(message)
    expected = share(length)
    if not torch.allclose(got, expected, atol=1e-6):
        return wrong(f"For my example I expected {_rounded(expected)}, and got {_rounded(got)}.")
    return right("Weight times length, as shares. For the first user the third shop has the smallest weight and the "
                 "second largest contribution.")  # fmt: skip


exercise_contribution = Exercise(
    LESSON,
    "exercise-contribution",
    title="What a shop contributes",
    level="beginner",
    minutes=10,
    task="What attention hands on is a sum of weight times value. `weights` is (n, D), `values` (n, D, V). Return each "
    "shop's contribution, (n, D): its weight times the length of its value (length: the Euclidean norm), as a share of "
    "the row's sum. Use it on the network with an encoder each, in the cell below your answer.",
    check=_check_contribution,
    hints=["`values.norm(dim=2)` is (n, D). What remains is a product and a division with `keepdim=True`."],
    solution=_contributions,
    wrong_answers={
        "weights alone": (lambda w, v: w, "weights alone"),
        "lengths alone": (lambda w, v: v.norm(dim=2) / v.norm(dim=2).sum(1, keepdim=True), "values alone"),
        "no shares": (lambda w, v: w * v.norm(dim=2), "not yet shares"),
        "sum for length": (
            lambda w, v: w * v.sum(2) / (w * v.sum(2)).sum(1, keepdim=True),
            "instead of taking its length",
        ),
        "squared": (
            lambda w, v: w * v.square().sum(2) / (w * v.square().sum(2)).sum(1, keepdim=True),
            "square root",
        ),
        "over the batch": (lambda w, v: w * v.norm(dim=2) / (w * v.norm(dim=2)).sum(), "whole batch"),
    },
)


# The study questions.

_ATTENTION_WORKED = """
A user who is new to one shop is known in others. The domain asked about makes a query; every domain in which the user
has a history makes a key and a value. The scaled dot product of query and key, through a softmax, gives weights that
sum to 1, and the weighted sum of the values is what the rest of the network learns about the user. Nobody tells it
which domains are related: the log loss of the clicks does, because a wrong weight costs it.

Three things follow. The weights depend on the domain asked about, so one network serves them all. They depend on the
user, so that a long history gets more weight than a short one. And they can be masked: a domain without history gets
weight 0 and the others share the rest, whichever are missing.

In this lesson that brought more than averaging all shops alike and more than the closest shop alone, where shops
differ, and nothing where all shops are equally related and histories equally long. Where they differ in relatedness
alone, one learned weight for each pair of shops did as well; where histories differ in length, it did not.

The limits: weights of a softmax are not negative, so a mirrored domain can only be silenced. With an encoder of its own
for each domain the network can turn values around instead, and the weight no longer says how much a domain counts. Of
two redundant domains either can be taken out with little damage, and both cannot. And rows must be aligned by user:
otherwise everybody is judged by somebody else's history.
"""


def study_attention(evidence_from: Explorer) -> StudyQuestion:
    """The study question on attention, with the explorer it takes its evidence from."""
    return StudyQuestion(
        LESSON,
        "study-attention",
        level="intermediate",
        question="How does attention help knowledge cross domains? Say what asks, what answers and what flows; why "
        "that can be better than averaging; when it gains nothing; and what its weights do not tell you.",
        evidence_prompt="In the first explorer, take one user and one shop. Note the weights with a long history in "
        "the closest shop, with one interaction there, and with that shop taken out. Then ask about another shop.",
        checks=[
            Quiz(
                LESSON,
                "study-attention/check-1",
                "A user has no history in films. What becomes of the weight that films would have had?",
                {
                    "It is lost: the row sums to less than 1": "That is what masking after the softmax does, and it is "
                    "a mistake. The mask belongs before it.",
                    "The other shops share it": "Yes. With the mask before the softmax the rows still sum to 1.",
                    "It goes to the closest shop": "Not all of it: the others grow in proportion.",
                },
                "The other shops share it",
            ),
            Quiz(
                LESSON,
                "study-attention/check-2",
                "All shops are equally related, but histories differ in length. Can attention gain anything?",
                {
                    "No, all shops deserve the same weight": "On average they do, but not for each user: a history of "
                    "32 interactions says more than one of 2.",
                    "Yes, by weighing long histories more": "Yes. No fixed weights could do that, because which "
                    "history is long differs from user to user.",
                    "Yes, by finding the most related shop": "There is none here: all are equally related.",
                },
                "Yes, by weighing long histories more",
            ),
            Quiz(
                LESSON,
                "study-attention/check-3",
                "You take out the shop with the largest weight, and the score hardly falls. What follows?",
                {
                    "The weights are wrong": "Not necessarily. Another shop may tell the same, and take over.",
                    "The shop tells nothing": "Not necessarily: with twins, each can be spared, and both cannot.",
                    "The score can do without it while the others are there": "Yes, and no more than that.",
                },
                "The score can do without it while the others are there",
            ),
        ],
        points=[
            KeyPoint(
                "the domain asked about makes a query; the others answer with keys and values",
                (r"\bquer(y|ies)\b[^.]{0,120}\b(keys?|values?)\b", r"\bkeys?\b[^.]{0,80}\bvalues?\b"),
                "It is why one network can serve every domain: another query, other weights.",
            ),
            KeyPoint(
                "weights sum to 1 and mix what is known of the user",
                (r"sum to (1|one)", r"weighted (sum|mean|average)", r"softmax"),
                "What crosses is a mixture of histories, not a choice of one.",
            ),
            KeyPoint(
                "the weights are learned from the loss, and follow relatedness",
                (
                    r"learn\w*[^.]{0,80}\brelated",
                    r"\brelated[^.]{0,80}(learn\w*|loss|weight)",
                    r"(more|less|larger|smaller) weight[^.]{0,60}\b(related|relevant|useful|similar|misleading)",
                ),
                "Nobody has to say which domains belong together.",
            ),
            KeyPoint(
                "they differ from user to user",
                (
                    r"(long|short)\w* histor",
                    r"histor\w+[^.]{0,40}(long|short|length)",
                    r"(each|every|one) user[^.]{0,60}(own|different) weights?",
                    r"user to user",
                ),
                "That is what no fixed weighting of domains can do.",
            ),
            KeyPoint(
                "missing histories are masked",
                (r"\bmask", r"(no|without) histor\w*[^.]{0,60}(weight|0|zero)"),
                "Most users are unknown in most domains; the same network serves them all.",
            ),
            KeyPoint(
                "a condition: it gains where domains differ",
                (
                    r"(nothing|no gain|not help|as good as averag\w*)[^.]{0,80}(equal|alike|same)",
                    r"(equal|alike|same)[^.]{0,80}(gains? nothing|no gain|not help|nothing)",
                    r"where (the )?(shops|domains) differ",
                ),
                "Where all domains are equally related and equally well known, averaging is already right.",
            ),
            KeyPoint(
                "a limit of the weights",
                (
                    r"(not|cannot) (be )?negative|never negative|non-?negative|mirror",
                    r"redundan|\btwins?\b",
                    r"not (an |the )?(explanation|cause|importance)|no explanation",
                    r"does not say how much|no longer says",
                ),
                "A weight says where the network looked, given its values; it is not what would be lost.",
            ),
        ],
        worked=_ATTENTION_WORKED,
        start="The shop asked about …",
        evidence_from=evidence_from,
    )


_MECHANISMS_WORKED = """
Knowledge crosses from one domain to another through something that both have. The mechanisms differ in what that is.

Domain-adversarial training (lesson 01) needs features in both domains, and labels in one. It makes the features hide
the domain, so that a predictor learned at home works abroad. It applies where a clue differs between the domains that
gives the domain away, and where the same features mean the same in both; where they do not, it does harm.

Matching distributions (lesson 02), for instance by MMD, wants the same and gets it without an opponent: a distance
between the features of the two domains is part of the loss. In lesson 02 it brought as much as the adversary. It shares
the limit: what looks alike need not mean the same.

Shared users carry knowledge by themselves: the same person has a row in both domains. An embedding of the user that
both domains train, or a map from one to the other, needs overlap. In lesson 02 it helped people with few ratings where
tastes were alike, and did harm where they were not. Where nobody is seen twice it has nothing to hold on to.

Attention across domains (this lesson) also lives on shared users, with several domains at once. It does not make
domains alike; it chooses, for each user and each domain asked about, whose history to listen to. It applies where there
are several source domains of different worth, and it needs labels in the domain asked about from other users. With one
source there is nothing to choose, and with all equally related it is averaging.

So ask first: who is in both domains, users or only features? Where are there labels? One source or many? And measure
against doing nothing: on MovieLens, users new to a genre gained as much from plain averaging as from attention.
"""


def study_mechanisms(evidence_from: Explorer) -> StudyQuestion:
    """The study question on the mechanisms of transfer, with the explorer it takes its evidence from."""
    return StudyQuestion(
        LESSON,
        "study-mechanisms",
        level="intermediate",
        question="Compare the mechanisms by which knowledge crosses domains: adversarial training, matching "
        "distributions, shared users, attention. What does each need, and where does each apply?",
        evidence_prompt="In the second explorer, run temperature 1, then 100, where the weights can hardly "
        "differ. Note the AUC of both: that is what choosing brings here. From lessons 01 and 02, add what aligning "
        "brought, and where it brought nothing.",
        checks=[
            Quiz(
                LESSON,
                "study-mechanisms/check-1",
                "No user is known in both shops, and the new shop has no labels. What can still carry knowledge over?",
                {
                    "Attention over the user's histories": "There is none to attend to: nobody is known elsewhere.",
                    "Features that are made to hide the shop": "Yes: adversarial training and matched distributions "
                    "need features on both sides, and labels on one.",
                    "A map between a user's two embeddings": "Such a map is learned from users who have both.",
                },
                "Features that are made to hide the shop",
            ),
            Quiz(
                LESSON,
                "study-mechanisms/check-2",
                "Features look alike in both domains, but mean different things. Which mechanism does harm?",
                {
                    "Aligning features, by an opponent or by a distance": "Yes. Both make features alike and know "
                    "nothing of what they mean.",
                    "Attention, because it cannot see meaning": "It sees what helps to predict labels of the domain "
                    "asked about, and gives a domain that misleads little weight.",
                    "None of them": "Lesson 01 turned the banner around, and the adversary did harm.",
                },
                "Aligning features, by an opponent or by a distance",
            ),
            Quiz(
                LESSON,
                "study-mechanisms/check-3",
                "Five source domains, known to be of different worth, share users with the target. What speaks for "
                "attention over one shared user embedding?",
                {
                    "It needs no labels in the target": "It does need them, from other users: they teach it to weigh.",
                    "It weighs the sources for each user and target": "Yes, and it copes with those that are missing.",
                    "It can use a mirrored source": "Only if the values can be turned around; the weights cannot.",
                },
                "It weighs the sources for each user and target",
            ),
        ],
        points=[
            KeyPoint(
                "adversarial training hides the domain in the features",
                (r"adversar\w*[^.]{0,120}(hid|fool|alike|indistinguish|invarian|tell)", r"hid\w*[^.]{0,40}\bdomain"),
                "It works on features, with labels in the source alone.",
            ),
            KeyPoint(
                "matching distributions puts a distance between domains into the loss",
                (
                    r"\bmmd\b",
                    r"match\w*[^.]{0,40}distribution",
                    r"distance[^.]{0,60}(domain|distribution|feature)",
                    r"mean discrepancy",
                ),
                "The same aim as the adversary's, without a game.",
            ),
            KeyPoint(
                "shared users carry knowledge, and need overlap",
                (r"shared users?", r"\boverlap", r"same (user|person|people)", r"users? in both"),
                "Without people who are known in both domains this way is closed.",
            ),
            KeyPoint(
                "attention weighs several sources for each user and target",
                (r"attention[^.]{0,200}(weigh|choos|listen|several|each user)", r"weigh\w*[^.]{0,60}sources?"),
                "It chooses between domains instead of making them alike.",
            ),
            KeyPoint(
                "what each needs: features, labels, or common users",
                (
                    r"(need|require)\w*[^.]{0,80}(label|feature|overlap|user)",
                    r"label\w*[^.]{0,60}(source|target|one|home|asked)",
                ),
                "What is there decides which mechanisms are open at all.",
            ),
            KeyPoint(
                "where a mechanism fails or gains nothing",
                (
                    r"\b(fails?|does harm|no gain|negative transfer|nothing to hold)\b",
                    r"(gains?|brings?|gained|brought) nothing",
                    r"\blimit",
                ),
                "Every one of them has a setting in which it gains nothing, and aligning has one in which it harms.",
            ),
        ],
        worked=_MECHANISMS_WORKED,
        start="Knowledge can cross through …",
        evidence_from=evidence_from,
    )
