"""How is a folder of results, or a validation, shown on one HTML page?

``results_page`` writes the page of ``simulate``, ``compare``, ``sweep`` (``rows_content``) and ``plan`` (``plan_content``);
``inside`` simulates the chosen deployment again; ``validation_page`` shows predicted against measured times. ``figures``,
``validation_charts`` and ``inline`` draw, ``sentences`` writes the text, ``page`` and ``templates`` make one HTML file.
"""
