"""Fifty pieces of hostile text, each of which may stand anywhere text stands."""

PAYLOADS = [
    "<script>alert(1)</script>", "</script><script>alert(2)</script>", "<img src=x onerror=alert(3)>", "<svg onload=alert(4)>", "<svg><script>alert(5)</script></svg>",
    '"><script>alert(6)</script>', "'><img src=x onerror=alert(7)>", '" onmouseover="alert(8)', "' onfocus='alert(9)' autofocus='", "javascript:alert(10)",
    "<a href=javascript:alert(11)>x</a>", "<iframe src=javascript:alert(12)>", "<object data=javascript:alert(13)>", "<embed src=//evil.example/x>", "<base href=//evil.example/>",
    "<link rel=stylesheet href=//evil.example/x.css>", "<meta http-equiv=refresh content=0;url=//evil.example>", "<style>*{display:none}</style>", "</style><b>", "</title><b>",
    "</textarea><b>", "<!--", "-->", "<![CDATA[", "]]>",
    "{{7*7}}", "{% raw %}", "${alert(14)}", "`${alert(15)}`", "\\u003cscript\\u003e",
    "&lt;script&gt;", "&#60;script&#62;", '");alert(16);//', "');alert(17);//", "*/alert(18)/*",
    "\u202ertl override", "\u2066isolate never closed", "\u2067\u202bright\u202c", "\u200bzero\u200dwidth\ufeff", "line\u2028and\u2029paragraph",
    "null\x00byte", "bell\x07\x1b[31mred", "back\x08space\x7f", "a\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308\u0309\u030a\u030b" * 9, "\U000e0041\U000e0042tags",
    "W" * 100_000, "\n" * 500, "__proto__", "constructor", "../../../../etc/passwd?x=%2e%2e#<b>",
]  # fmt: skip
