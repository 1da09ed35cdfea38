"""The form that promotes a policy or rolls back to one."""

from django import forms
from django.utils.translation import gettext_lazy


class PromoteForm(forms.Form):
    """Why, and which state of the serving pointer the person was looking at."""

    expected_epoch = forms.IntegerField(min_value=0, widget=forms.HiddenInput)
    reason = forms.CharField(
        max_length=300,
        required=False,
        strip=True,
        label=gettext_lazy("Reason"),
        help_text=gettext_lazy("Kept in the history for ever, beside your name."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": gettext_lazy("why, in a few words")}),
    )
