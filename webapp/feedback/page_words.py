"""What the scripts of the rater page say."""

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webapp.page_words import as_json, forms


def page_words() -> str:
    """The words of rate.js, rest.js and modes/, by the names that those use, as JSON.

    What tells of keys has a second text under the name with ``_by_finger``, for where none are shown: see words.js.
    """
    return as_json(
        {
            # rate.js: verdicts on their way
            "saving": _("saving …"),
            "saved": _("saved"),
            "saved_undo": _("saved · %(key)s undoes"),
            "not_saved": _("not saved"),
            "not_saved_resends": _("not saved, will resend"),
            "offline_resends": _("offline, will resend"),
            "logged_out_kept": _(
                "You are logged out. Log in again: your verdict is kept on this computer and sent right after."
            ),
            "logged_out": _("You are logged out. Log in again to go on."),
            "refused": _("The server refuses what is kept on this computer. Log in again to send it."),
            "not_yours": _("This item is not yours to rate any more. Reload the page for the next one."),
            "server_error": _("The server could not save it (error %(status)s)."),
            "no_server": _("The server cannot be reached."),
            "foreign": _("Something else than the studio answered: reload the page, perhaps to log in there."),
            "kept_resends": forms(
                lambda count: ngettext(
                    "Your verdict is kept on this computer and sent again by itself.",
                    "Your last %(count)s verdicts are kept on this computer and sent again by itself.",
                    count,
                )
            ),
            "kept_tries": forms(
                lambda count: ngettext(
                    "Your verdict is kept on this computer. While you are here, the page tries once a minute.",
                    "Your last %(count)s verdicts are kept on this computer. While you are here, the page "
                    "tries once a minute.",
                    count,
                )
            ),
            "too_late": _("time ran out; a late verdict is kept"),
            # rate.js: what is announced, and what was undone
            "next_pair": _("Next pair."),
            "next_single": _("Next answer."),
            "next_ranking": _("Next ranking."),
            "next_rule": _("Next rule."),
            "next_rewrite": _("Next answer to rewrite."),
            "next_turns": _("Next conversation."),
            "no_redo": _("nothing to redo"),
            "no_undo": _("nothing more to undo"),
            "undo_offline": _("offline: undo later"),
            "undo_error": _("undo failed (error %(status)s)"),
            "undo_foreign": _("undo failed: reload the page"),
            "digits": _("%(first)s to %(last)s choose; %(help)s shows all keys"),
            "digits_zero": _("%(first)s to %(last)s and %(zero)s choose; %(help)s shows all keys"),
            "digit": _("%(first)s chooses; %(help)s shows all keys"),
            # rest.js
            "rested": forms(
                lambda count: ngettext(
                    "You have rated for %(count)s minute. A short break keeps verdicts steady.",
                    "You have rated for %(count)s minutes. A short break keeps verdicts steady.",
                    count,
                )
            ),
            # modes/ranking.js
            "place_1": _("1st"),
            "place_2": _("2nd"),
            "place_3": _("3rd"),
            "place_4": _("4th"),
            "place_5": _("5th"),
            "place_6": _("6th"),
            "ranked": _("Answer %(number)s, %(place)s place, key %(key)s"),
            "unranked": _("Answer %(number)s, no place yet, key %(key)s"),
            "all_ranked": _("%(order)s. Enter saves."),
            "all_ranked_by_finger": _("%(order)s. Now save it."),
            "rank_first": _("Best first: which is next?"),
            "rank_next": _("%(order)s: which is next?"),
            "rank_left": _("Still without a place: %(numbers)s."),
            # modes/rewrite.js
            "rewrite_saves": _("Ctrl+Enter saves."),
            "rewrite_saves_by_finger": _("Your text is not saved yet."),
            "rewrite_same": _("That is the answer as it stood: change it, or press %(key)s: good as it is."),
            "rewrite_same_by_finger": _(
                "The text is the answer as it stood: change it, or say that it is good as it is."
            ),
            "rewrite_empty": _("The text is empty: write one, or skip the item."),
            "rewrite_back": _("What you wrote here before is back. It is not saved yet."),
            "rewrite_asks": _(
                "Your text is not saved by this. Press %(key)s once more to call the answer good and keep the text as "
                "a draft; Ctrl+Enter saves it."
            ),
            "rewrite_asks_by_finger": _(
                "Your text is not saved by this. Say once more that the answer is good as it is, and the text is kept "
                "as a draft; or save it."
            ),
            # modes/rule.js
            "passage": _("“%(words)s” Enter marks it, arrows choose, Esc leaves."),
            "passage_by_finger": _("“%(words)s” Mark it, or select other words."),
            "marked": forms(
                lambda count: ngettext(
                    "%(count)s marked. Now your verdict.", "%(count)s marked. Now your verdict.", count
                )
            ),
            "none_marked": _("Nothing is marked."),
            "marks_full": _(
                "%(most)s passages are marked, and there can be no more: clear one by a click on it first."
            ),
            # modes/turns.js
            "turn_now": _("Turn %(now)s of %(all)s"),
            "turn_said": _("Turn %(now)s: %(word)s."),
            "turns_done": _("Each turn is judged: Enter saves."),
            "turns_done_by_finger": _("Each turn is judged: now save it."),
            "turns_left": _("Still without a verdict: turn %(numbers)s."),
            "mark_first": _("Enter marks the passage first, Esc leaves it."),
        }
    )
