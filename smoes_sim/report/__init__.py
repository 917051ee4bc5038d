"""What does a folder of results, or a validation, say on one page to mail?

``results_page`` writes the page of ``simulate``, ``compare``, ``sweep`` (``rows_content``) and ``plan`` (``plan_content``);
``inside`` simulates the chosen deployment again; ``validation_page`` shows predicted against measured times. ``figures``,
``validation_charts`` and ``inline`` draw, ``sentences`` words, ``page`` and ``templates`` put it into one HTML file.
"""
