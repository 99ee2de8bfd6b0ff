"""Ratings from any CSV file: what is understood, and what is said where it is not."""

import csv
import io
import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recmtl_lessons.datasets.own_csv import load_csv

_TABLE = "user,item,rating\nann,30,4.5\nbob,4,1\nann,4,3\n"


@pytest.fixture
def load(tmp_path):
    """Write text (or bytes) to ratings.csv and load it; no warning is let pass."""

    def write_and_load(content, **options):
        path = tmp_path / "ratings.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return load_csv(path, **options)

    return write_and_load


def rows(ratings):
    """Rows as (user id, item id, rating), decoded."""
    return [
        (ratings.user_ids[u], ratings.item_ids[i], r)
        for u, i, r in zip(ratings.user.tolist(), ratings.item.tolist(), ratings.rating.tolist(), strict=True)
    ]


class TestWhatIsUnderstood:
    def test_three_columns(self, load):
        ratings = load(_TABLE)
        assert rows(ratings) == [("ann", 30, 4.5), ("bob", 4, 1.0), ("ann", 4, 3.0)]
        assert ratings.item_ids == (4, 30)  # as numbers, not "30" before "4"
        assert ratings.time is None
        assert ratings.domain is None
        assert ratings.rating.dtype == torch.float32

    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "::"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    def test_delimiters_line_ends_and_byte_order_mark(self, load, delimiter, end, mark):
        text = _TABLE.replace(",", delimiter).replace("\n", end)
        assert rows(load(mark + text.encode())) == rows(load(_TABLE))

    @pytest.mark.parametrize("delimiter", ["~", " ", "~~", ", "])
    def test_a_delimiter_that_is_named(self, load, delimiter):
        assert rows(load(_TABLE.replace(",", delimiter), delimiter=delimiter)) == rows(load(_TABLE))

    def test_a_file_as_movielens_1m_writes_it(self, load):
        """No header, two colons, Latin-1; a quote is a character as any other."""
        text = '1::One "day::5::978300760\r\n\r\n2::Café::3::978302109\r\n'
        columns = ("user", "item", "rating", "time")
        for options in ({}, {"delimiter": "::"}):
            ratings = load(text.encode("latin-1"), encoding="latin-1", header=columns, **options)
            assert rows(ratings) == [(1, 'One "day', 5.0), (2, "Café", 3.0)]
            assert ratings.time.tolist() == [978300760, 978302109]

    def test_a_header_that_is_named_follows_the_rules_of_one_in_the_file(self, load):
        ratings = load("x,ann,30,4.5\n", header=["no", " userId", "Movie", "stars"])
        assert rows(ratings) == [("ann", 30, 4.5)]

    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8", "UTF_8"])
    def test_unicode_with_and_without_a_byte_order_mark(self, load, encoding, mark):
        assert rows(load((mark + "user,item,rating\nRené,é,2\n").encode(encoding), encoding=encoding)) == [
            ("René", "é", 2.0)
        ]

    @pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
    def test_encodings(self, load, encoding):
        assert rows(load("user,item,rating\nRené,é,2\n".encode(encoding), encoding=encoding)) == [("René", "é", 2.0)]

    def test_lines_that_end_in_cr_alone_are_counted(self, load):
        with pytest.raises(ValueError, match="line 3, column 'rating': 'x' is not"):
            load("user,item,rating\ra,1,1\rc,2,x\r")
        with pytest.raises(ValueError, match="line 3: byte 0xe9 is not UTF-8 text"):
            load(b"user,item,rating\ra,1,1\rc\xe9,2,2\r")

    @pytest.mark.parametrize(
        "header",
        ["userId,movieId,rating", "USER_ID, Item ID ,Stars", "uid,asin,score", "Customer,Product,Rating"],
    )
    def test_usual_names_in_any_case(self, load, header):
        assert rows(load(_TABLE.replace("user,item,rating", header))) == rows(load(_TABLE))

    def test_named_columns_among_others(self, load):
        text = "no,Who,user,What,Mark\n1,ann,x,a,2\n2,bob,y,b,3\n"
        ratings = load(text, user="who", item="What", rating="MARK")
        assert rows(ratings) == [("ann", "a", 2.0), ("bob", "b", 3.0)]

    def test_the_name_as_written_comes_first(self, load):
        ratings = load("User,user,item,rating\nbad,good,1,1\n", user="user")
        assert ratings.user_ids == ("good",)

    def test_quotes_spaces_empty_lines_and_a_field_over_two_lines(self, load):
        text = '\nuser,item,rating\n"ann, the first"," a ",2\n\n"bob\nthe second",b, 3 \n   \n'
        assert rows(load(text)) == [("ann, the first", "a", 2.0), ("bob\nthe second", "b", 3.0)]

    def test_a_column_of_ids_is_text_unless_all_are_plain_numbers(self, load):
        ratings = load("user,item,rating\n7,1,1\n007,-2,1\n10,0,1\n")
        assert ratings.user_ids == ("007", "10", "7")
        assert ratings.item_ids == (-2, 0, 1)
        ratings = load("user,item,rating\n1_0,１２,1\n10,12,1\n12,٣,1\n")
        assert (ratings.user_ids, ratings.item_ids) == (("10", "12", "1_0"), ("12", "٣", "１２"))

    def test_time_and_domain_are_picked_up_by_their_usual_names(self, load):
        ratings = load("user,item,rating,Timestamp,category\na,x,1,964982703,films\na,y,2,964982705.9,books\n")
        assert ratings.time.tolist() == [964982703, 964982705]
        assert ratings.domain_names == ("books", "films")
        assert ratings.domain.tolist() == [1, 0]

    def test_time_and_domain_can_be_named_or_left_out(self, load):
        text = "user,item,rating,date,shop,when\na,x,1,last week,films,964982703\n"
        ratings = load(text, time="when", domain="shop")
        assert (ratings.time.tolist(), ratings.domain_names) == ([964982703], ("films",))
        ratings = load(text.replace("shop", "domain"), time=False, domain=False)
        assert (ratings.time, ratings.domain, ratings.domain_names) == (None, None, ())

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("0", 0),
            ("-1", -1),
            ("1970-01-02", 86_400),
            ("1970-01-01T01:00:00Z", 3_600),
            ("1970-01-01 01:00:00", 3_600),
            ("1970-01-01T01:00:00+01:00", 0),
            (" 2000-02-29 ", 951_782_400),
            ("0001-01-01", -62_135_596_800),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
            ("978300760.0", 978_300_760),
            (" 9.7830076e8 ", 978_300_760),
        ],
    )
    def test_times(self, load, text, seconds):
        """A single small number counts as it stands, where others of its column are seconds of today."""
        ratings = load(f"user,item,rating,time\na,x,1,{text}\na,y,1,1700000000\n")
        assert ratings.time.tolist() == [seconds, 1_700_000_000]

    @settings(deadline=None, max_examples=40)
    @given(
        st.dictionaries(
            st.tuples(*[st.text("abcé,;|'\" \n0123", min_size=1, max_size=5).filter(str.strip)] * 2),
            st.floats(-100, 100, width=32),
            min_size=1,
            max_size=12,
        ),
        st.sampled_from([",", ";", "\t", "|"]),
    )
    def test_what_was_written_is_read(self, tmp_path_factory, table, delimiter):
        expected = {(f"u{u.strip()}", f"i{i.strip()}"): r for (u, i), r in table.items()}
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter)
        writer.writerows([("user", "item", "rating"), *((u, i, r) for (u, i), r in expected.items())])
        path = tmp_path_factory.mktemp("csv") / "ratings.csv"
        path.write_bytes(text.getvalue().encode())
        assert {(u, i): r for u, i, r in rows(load_csv(path))} == expected


class TestRepeatedRatings:
    def test_the_latest_time_counts_and_the_rest_is_said(self, tmp_path):
        path = tmp_path / "mine.csv"
        path.write_text("user,item,rating,time\na,x,1,9e8\na,y,2,1e8\na,x,3,5e8\na,x,4,9e8\na,x,5,8e8\n")
        with pytest.warns(UserWarning, match=r"^mine\.csv: 3 rows rate the same user and item as") as warned:
            ratings = load_csv(path)
        assert rows(ratings) == [("a", "y", 2.0), ("a", "x", 4.0)]
        assert ratings.time.tolist() == [100_000_000, 900_000_000]
        assert warned[0].filename == __file__

    def test_without_times_the_last_row_counts(self, tmp_path):
        path = tmp_path / "mine.csv"
        path.write_text("user,item,rating\na,x,1\nb,x,2\na,x,3\n")
        with pytest.warns(UserWarning, match="1 rows rate"):
            assert rows(load_csv(path)) == [("b", "x", 2.0), ("a", "x", 3.0)]

    def test_the_same_item_in_two_domains_is_no_repetition(self, load):
        assert len(load("user,item,rating,domain\na,x,1,books\na,x,2,films\n")) == 2


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("ann,30,five", "line 3, column 'rating': 'five' is not a number"),
            ("ann,30,", "line 3, column 'rating': '' is not a number"),
            ("ann,30,nan", "line 3, column 'rating': 'nan' is not a finite number"),
            ("ann,30,-inf", "line 3, column 'rating': '-inf' is not a finite number"),
            ("ann,30,1e39", "line 3, column 'rating': '1e39' is not a finite number"),
            ("ann,30,4_5", "line 3, column 'rating': '4_5' is not a number"),
            ("ann,30,１２", "line 3, column 'rating': '１２' is not a number"),
            ("ann,30,٣", "line 3, column 'rating': '٣' is not a number"),
            ("ann,30,0x1", "line 3, column 'rating': '0x1' is not a number"),
            (" ,30,1", "line 3, column 'user': it is empty"),
            ("ann,,1", "line 3, column 'item': it is empty"),
            ("ann,30", "line 3: 2 fields, expected 3"),
            ("ann,30,4,5", "line 3: 4 fields, expected 3"),
            ('"ann,30,4', "line 3: the row cannot be read (unexpected end of data; a quote not closed?)"),
            (f"ann,{'z' * 200_000},4", "line 3: the row cannot be read (field larger than field limit (131072)"),
            ("ann,3\0,4", "line 3: a NUL character is no text; pass its encoding, such as 'utf-16'"),
        ],
    )
    def test_a_bad_row_is_named(self, load, line, message):
        with pytest.raises(ValueError, match=f"^ratings.csv, {re.escape(message)}"):
            load(f"user,item,rating\nbob,4,1\n{line}\n")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("yesterday", "'yesterday' is neither seconds since 1970 nor an ISO date"),
            ("12/03/2020", "'12/03/2020' is neither .*time=False leaves the column out"),
            ("1589234234000", "'1589234234000' is no time in seconds since 1970 .milliseconds"),
            ("1589234234000000", "'1589234234000000' is no time in seconds since 1970 .microseconds"),
            ("1589234234000000000", "'1589234234000000000' is no time in seconds since 1970 .nanoseconds"),
            ("20220408123059", "'20220408123059' is no time in seconds since 1970 .a date and time, YYYYMMDDhhmm"),
            ("202204081230", "'202204081230' is no time in seconds since 1970 .a date and time, YYYYMMDDhhmm"),
            ("0001-01-01T00:00:00+14:00", "'0001-01-01T00:00:00.14:00' is no time"),
            ("1_700_000_000", "'1_700_000_000' is neither"),
            ("١٧٠٠٠٠٠٠٠٠", "'١٧٠٠٠٠٠٠٠٠' is neither"),
            ("2022-04-08T25:00", "'2022-04-08T25:00' is neither"),
            ("nan", "'nan' is no time"),
            ("", "'' is neither"),
        ],
    )
    def test_a_bad_time_is_named(self, load, text, message):
        with pytest.raises(ValueError, match=f"^ratings.csv, line 2, column 'Date': {message}"):
            load(f"user,item,rating,Date\nann,30,1,{text}\n")

    @pytest.mark.parametrize(
        ("texts", "look"),
        [
            (("20220408", "19991231"), " (a date, YYYYMMDD?)"),
            (("202204", "202312"), " (a month, YYYYMM?)"),
            (("2022", " 1999 "), " (a year?)"),
            (("2022.0", "1999.0"), " (a year?)"),
            (("43831", "44000.5"), " (a day number of a spreadsheet?)"),
            (("18993", "19002"), ""),  # days since 1970
            (("474828", "474900"), ""),  # hours
            (("28489690", "28489699"), ""),  # minutes
            (("0", "17"), ""),
            (("2022-04-08", "20220408"), " (a date, YYYYMMDD?)"),
            (("-5", "2022"), ""),
            (("99999999", "-99999999"), ""),
        ],
    )
    def test_a_column_of_dates_that_are_written_as_numbers(self, load, texts, look):
        body = "".join(f"ann,{k},1,{text}\n" for k, text in enumerate(texts))
        line = 3 if "-" in texts[0][1:] else 2
        text = texts[line - 2]
        with pytest.raises(ValueError, match="seconds since 1970") as caught:
            load(f"user,item,rating,Date\n{body}")
        assert str(caught.value) == (
            f"ratings.csv, line {line}, column 'Date': {text!r} is no time in seconds since 1970{look}; all numbers of "
            "the column would lie from 1966 to 1973, expected seconds, or ISO dates such as 2024-05-01 (time=False "
            "leaves the column out)"
        )
        assert load(f"user,item,rating,Date\n{body}", time=False).time is None

    def test_lines_are_those_of_the_file(self, load):
        with pytest.raises(ValueError, match="line 6, column 'rating': 'x' is not"):
            load('user,item,rating\n\n"a\nb",1,1\n\nc,2,x\n')

    def test_five_places_are_listed_in_order_and_the_rest_is_counted(self, load):
        body = "a,1\n,2,x\n" + "".join(f"a,{k},bad\n" for k in range(10))
        with pytest.raises(ValueError, match="bad") as caught:
            load(f"user,item,rating\n{body}")
        assert str(caught.value).splitlines() == [
            "ratings.csv, line 2: 2 fields, expected 3",
            "ratings.csv, line 3, column 'user': it is empty",
            "ratings.csv, line 3, column 'rating': 'x' is not a number",
            "ratings.csv, line 4, column 'rating': 'bad' is not a number",
            "ratings.csv, line 5, column 'rating': 'bad' is not a number",
            "and 8 more",
        ]

    def test_places_in_different_columns_are_in_the_order_of_the_file(self, load):
        with pytest.raises(ValueError, match=r"line 2, column 'rating': .*\n.*line 3, column 'user': it is empty"):
            load("user,item,rating\na,1,x\n,2,3\n")

    def test_a_long_text_is_cut(self, load):
        with pytest.raises(ValueError, match=rf"'{'z' * 37}\.\.\.' is not a number$"):
            load(f"user,item,rating\na,1,{'z' * 5000}\n")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "ratings.csv: the file is empty"),
            (" \n\n", "ratings.csv: the file is empty"),
            ("user,item,rating\n", "ratings.csv: got a header and no rows"),
            ('"', "ratings.csv, line 1: the row cannot be read"),
            ("x" * 200_000, "ratings.csv, line 1: the row cannot be read"),
            (
                b"user,item,rating\nann,1,1\n\xe9,2,2\n",
                "line 3: byte 0xe9 is not UTF-8 text; .*encoding='latin-1'",
            ),
            (
                b"\xef\xbb\xbfuser,item,rating\n\xff,1,1\n",
                "ratings.csv, line 2: byte 0xff is not UTF-8 text",
            ),
            ("user,item,rating\na,1,1".encode("utf-16"), "line 1: byte 0xff is not UTF-8 text; .*encoding='utf-16'"),
            ("user,item,rating\na,1,1".encode("utf-16-le"), "line 1: a NUL character is no text"),
            ("1::2::3::978300760\n", r"its columns are '1', '2', '3', '978300760' .*header=\('user', 'item', \.\.\."),
            (",".join(f"c{k}" for k in range(99)) + "\n", r"its columns are 'c0', .* 'c19' \.\.\. \(delimiter"),
            (
                "who,item,rating\na,1,1\n",
                "no column 'user' for user; its columns are 'who', 'item', 'rating'",
            ),
            ("user:item:rating\na:1:1\n", "no column 'user' .* 'user:item:rating' .delimiter ','"),
            ("user,User ID,userid,item,rating\na,b,c,1,1\n", None),
            ("User,USER,item,rating\na,b,1,1\n", "2 columns could be the user: 'User', 'USER', expected one"),
            ("user,item,rating,rating\na,1,1,2\n", "2 columns could be the rating: 'rating', 'rating'"),
        ],
    )
    def test_a_file_that_does_not_fit(self, load, content, message):
        if message is None:  # the plainest of the usual names wins
            assert load(content).user_ids == ("a",)
            return
        with pytest.raises(ValueError, match=message):
            load(content)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"user": "reader"}, "no column 'reader' for user"),
            ({"time": "when"}, "no column 'when' for time"),
            ({"item": "user"}, "column 'user' would be both user and item"),
            ({"delimiter": ":"}, "no column 'user' for user; its columns are 'user,item,rating' .delimiter ':'"),
            ({"encoding": "ascii", "user": "é"}, "no column 'é' for user"),
            ({"encoding": "klingon"}, "encoding: got 'klingon', expected a text encoding, such as 'latin-1'"),
            ({"header": ("a", "b")}, "no column 'user' for user; its columns are 'a', 'b'"),
            ({"header": ("user", "item", "rating")}, "line 1, column 'rating': 'rating' is not a number"),
            ({"header": ("user", "item", "rating", "time")}, "line 1: 3 fields, expected 4"),
        ],
    )
    def test_arguments_that_do_not_fit(self, load, options, message):
        with pytest.raises(ValueError, match=message):
            load(_TABLE, **options)

    @settings(deadline=None, max_examples=150)
    @given(st.binary(max_size=60) | st.text('ab1.,;\t|"\r\n -', max_size=60).map(str.encode))
    def test_whatever_is_in_the_file_it_loads_or_names_the_file(self, tmp_path_factory, content):
        path = tmp_path_factory.mktemp("csv") / "ratings.csv"
        path.write_bytes(b"user,item,rating\n" + content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert len(load_csv(path)) >= 1
            except ValueError as error:
                assert all(  # noqa: PT017
                    line.startswith(("ratings.csv", "and ")) for line in str(error).splitlines()
                )

    def test_no_such_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
            load_csv(tmp_path / "nowhere.csv")

    def test_what_is_no_path(self, tmp_path):
        class DataFrame:
            pass

        for path, came in ((None, "NoneType"), (DataFrame(), "DataFrame"), (b"ratings.csv", "bytes")):
            with pytest.raises(ValueError, match=f"^path: got {came}, expected the path of a CSV file"):
                load_csv(path)
        with pytest.raises(ValueError, match=f"^path: got the folder .*{tmp_path.name}', expected the path of a CSV"):
            load_csv(tmp_path)
