"""The lowest versions that settings.ini allows for what a user runs, as constraints for pip; tools may be new.

python tests/lowest.py > lowest.txt && pip install -c lowest.txt -e ".[cpu,notebook]"
"""
from packages import asked, lowest

if __name__ == "__main__":
    for requirement in asked("", "notebook", "cpu"): print(f"{requirement.name}=={lowest(requirement)}")
