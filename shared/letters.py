"""Letters of scripts that separate words by spaces, and of those that do not, for patterns."""

UNSEGMENTED = "[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]"
"""A letter or mark of Thai, Japanese or Chinese, which do not separate words."""

LETTER = rf"(?!{UNSEGMENTED})[\w\u0900-\u0963]"
"""Any other letter, including Hindi's vowel signs, which Python does not count as letters."""
