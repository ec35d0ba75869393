"""Settings of the site (`make docs`): notebooks as they are stored; nothing is executed, nothing is downloaded."""
project, author, copyright = "hil", "the hil contributors", "the hil contributors, Apache-2.0"
extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design", "sphinx-mathjax-offline"]
nb_execution_mode = "off"  # the notebooks were executed when they were committed
nb_number_source_lines = False
nb_render_markdown_format = "myst"  # tables that a cell has put out as Markdown, too
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "pydata_sphinx_theme"
html_title = "hil"
html_static_path = ["static"]
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_start": ["navbar-logo"], "navbar_end": ["theme-switcher"], "secondary_sidebar_items": ["page-toc"],
    "show_nav_level": 1, "navigation_depth": 2, "header_links_before_dropdown": 6,
    "footer_start": ["copyright"], "footer_end": ["last-updated"]}
# pages that have no pages below them have nothing to show at the left
html_sidebars = dict.fromkeys(["index", "ninety_minutes", "researcher", "engineer", "lecturer", "glossary", "your_data",
                               "command_line", "house", "speed", "results", "choices", "in_the_browser"], [])
html_last_updated_fmt = "%Y-%m-%d"
exclude_patterns = ["**/.ipynb_checkpoints"]
# `mimetype` outputs that a page cannot show have a picture or a text beside them
suppress_warnings = ["app.add_node", "env.new", "mystnb.unknown_mime_type", "misc.highlighting_failure"]
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
