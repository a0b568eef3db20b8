"""Secrets in addresses never reach a text that is printed or stored."""

import pytest

from gare.common.redact import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see postgresql://me:secret@db/x now", "see postgresql://***@db/x now"),
        ("https://me:p@ss@host:5000/a", "https://***@host:5000/a"),
        ("s3://key:secret@bucket/x?secret_key=y&region=z", "s3://***@bucket/x?secret_key=***&region=z"),
        ("s3://AKIA:ab/cd+e@bucket/x", "s3://***@bucket/x"),
        ("mysql://u:p@ss/w@h/db", "mysql://***@h/db"),
        ("https://h/x#access_token=abc", "https://h/x#access_token=***"),
        ("https://host/path?token=abc&n=1", "https://host/path?token=***&n=1"),
        (
            "https://b/x?X-Amz-Credential=a%2Fb&X-Amz-Signature=99",
            "https://b/x?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("https://b/x?api_key=a;password=b", "https://b/x?api_key=***;password=***"),
        ('["http://a/b","me@home"]', '["http://a/b","me@home"]'),
        ("write to me@home about http://host/?page=2", "write to me@home about http://host/?page=2"),
    ],
)
def test_users_passwords_and_secret_parameters_are_blotted_out_and_nothing_else(text, shown):
    assert redact(text) == shown
