"""The part of the package `verifiers` 0.4 that our adapter meets, for machines where the package is not installed.

Names, arguments and what they do follow the package; the tests of the adapter run on either, and where the package is
installed a test holds this one to it.
"""

__version__ = "0.4.0"
